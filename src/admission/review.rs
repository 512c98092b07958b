//! AdmissionReview of `admission.k8s.io/v1`: the few fields of a request that are read, and the whole of an answer.
//!
//! The objects of a request are borrowed as they stand in its bytes and parsed only when their kind is of interest.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why bytes are no review that can be answered. The API server is told by HTTP status 400.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, more than one document, or a field of a wrong type.
    #[error("the body is not one AdmissionReview in JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// JSON, but of another kind.
    #[error("kind {kind:?} of {api_version:?} is not an AdmissionReview of {API_VERSION}")]
    OtherKind {
        /// The kind.
        kind: String,
        /// Its API version.
        api_version: String,
    },
    /// An AdmissionReview of another version.
    #[error(
        "an AdmissionReview of {0:?} is not served, only {API_VERSION}; \
         set admissionReviewVersions: [\"v1\"] in the webhook configuration"
    )]
    OtherVersion(String),
    /// A review without a request.
    #[error("the AdmissionReview has no request")]
    NoRequest,
    /// A request that cannot be answered, since the answer must carry its UID.
    #[error("the request of the AdmissionReview has no uid")]
    NoUid,
}

/// A text that is borrowed where JSON has no escapes in it. `null` reads as empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    #[serde(borrow, default)]
    api_version: Text<'a>,
    #[serde(borrow, default)]
    kind: Text<'a>,
    #[serde(borrow, default)]
    request: Option<Request<'a>>,
}

/// Group and kind of an object; versions do not matter to decisions.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GroupKind<'a> {
    /// The API group; empty for the core.
    #[serde(borrow, default)]
    pub group: Text<'a>,
    /// The kind.
    #[serde(borrow, default)]
    pub kind: Text<'a>,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Requester<'a> {
    /// Groups of the user.
    #[serde(borrow, default)]
    pub groups: Option<Vec<Text<'a>>>,
}

/// What the API server asks about.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// Identifies the request; the answer repeats it.
    #[serde(borrow, default)]
    pub uid: Text<'a>,
    /// What the object is.
    #[serde(borrow, default)]
    pub kind: GroupKind<'a>,
    /// `status`, `binding` and the like; empty for the object itself.
    #[serde(borrow, default)]
    pub sub_resource: Text<'a>,
    /// The object's name; empty when the API server is yet to make one up.
    #[serde(borrow, default)]
    pub name: Text<'a>,
    /// The object's namespace.
    #[serde(borrow, default)]
    pub namespace: Text<'a>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(borrow, default)]
    pub operation: Text<'a>,
    /// Who asks.
    #[serde(borrow, default)]
    pub user_info: Option<Requester<'a>>,
    /// The object as it would be stored; absent on `DELETE`.
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
    /// The object as it is stored; absent on `CREATE`.
    #[serde(borrow, default)]
    pub old_object: Option<&'a RawValue>,
    /// Nothing will be stored.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

impl<'a> Request<'a> {
    /// Reads the request of a review.
    ///
    /// # Errors
    /// When the bytes are no review of the version that is served, or one that cannot be answered.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReviewError> {
        let review: Review<'a> = serde_json::from_slice(body)?;
        if review.kind.0 != KIND || !review.api_version.starts_with("admission.k8s.io/") {
            return Err(ReviewError::OtherKind { kind: shown(&review.kind), api_version: shown(&review.api_version) });
        }
        if review.api_version.0 != API_VERSION {
            return Err(ReviewError::OtherVersion(shown(&review.api_version)));
        }
        let request = review.request.ok_or(ReviewError::NoRequest)?;
        if request.uid.is_empty() { Err(ReviewError::NoUid) } else { Ok(request) }
    }

    /// True when nothing will be stored.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run == Some(true)
    }
}

/// As much of a hostile text as an error message can bear.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// For the requester: what is wrong and what to do.
    pub message: String,
}

/// The answer to a review, apart from the UID that it repeats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// What was decided, in the words of metrics.
    pub decision: Decision,
    /// The first finding, for metrics.
    pub code: Option<crate::binding::Code>,
    /// Present when the request is refused.
    pub denial: Option<Denial>,
    /// Operations on the object; empty when it stays as it is.
    pub patch: json_patch::Patch,
    /// For the person at kubectl.
    pub warnings: Vec<String>,
    /// For the audit log. The API server puts the webhook's name before each key, so keys have no `/`.
    pub audit: BTreeMap<&'static str, String>,
    /// For the log: why the object could not be read. It quotes nothing of the object.
    pub trouble: Option<String>,
}

/// What became of a review, as a label of metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Of a kind, operation or subresource that is not looked at.
    #[default]
    Ignored,
    /// Looked at by nobody, on purpose: mirror Pods, kubelets, exempt namespaces.
    Exempt,
    /// The object cannot be read; it is left to the API server.
    Unreadable,
    /// Nothing to say.
    Clean,
    /// Something to say, nothing changed.
    Warned,
    /// A Pod's node name became a pin.
    Rewritten,
    /// A Pod's claim templates got their node.
    Selected,
    /// Refused.
    Denied,
}

impl Decision {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Exempt => "exempt",
            Self::Unreadable => "unreadable",
            Self::Clean => "clean",
            Self::Warned => "warned",
            Self::Rewritten => "rewritten",
            Self::Selected => "selected",
            Self::Denied => "denied",
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReviewAnswer<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: Response<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    // The API server refuses an answer that has one of the two without the other.
    #[serde(flatten)]
    patch: Option<PatchFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: &'a BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PatchFields {
    patch_type: &'static str,
    patch: String,
}

/// `Status` of the API machinery; its field `status`, always `Failure` here, may be left out.
#[derive(Serialize)]
struct Status<'a> {
    message: &'a str,
    reason: &'static str,
    code: u16,
}

impl Answer {
    /// An answer that allows and says nothing.
    #[must_use]
    pub fn nothing(decision: Decision) -> Self {
        Self { decision, ..Self::default() }
    }

    /// The bytes that are sent to the API server.
    ///
    /// # Errors
    /// Never in practice: every field can be written as JSON.
    pub fn to_json(&self, uid: &str) -> Result<Vec<u8>, serde_json::Error> {
        let patch = if self.patch.is_empty() {
            None
        } else {
            Some(PatchFields { patch_type: "JSONPatch", patch: STANDARD.encode(serde_json::to_vec(&self.patch)?) })
        };
        let status =
            self.denial.as_ref().map(|denial| Status { message: &denial.message, reason: "Forbidden", code: 403 });
        serde_json::to_vec(&ReviewAnswer {
            api_version: API_VERSION,
            kind: KIND,
            response: Response {
                uid,
                allowed: self.denial.is_none(),
                patch,
                status,
                warnings: &self.warnings,
                audit_annotations: &self.audit,
            },
        })
    }
}
