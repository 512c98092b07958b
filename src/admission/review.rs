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

use crate::model::{Pod, Text};
use crate::policy::Requester;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// Why bytes are no review that can be answered. The API server is told by HTTP status 400.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Not JSON, more than one document, or a field of a wrong type.
    #[error("the body is not one AdmissionReview in JSON: {0}")]
    Malformed(#[from] serde_json::Error),
    /// No text.
    #[error("the body is not one AdmissionReview in JSON: it is not UTF-8")]
    NotUtf8,
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
pub struct BorrowedText<'a>(Cow<'a, str>);

impl std::ops::Deref for BorrowedText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BorrowedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for BorrowedText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = BorrowedText<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(BorrowedText(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(BorrowedText(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(BorrowedText::default())
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// What is read of a review. `EAGER`: a Pod is read where it stands in the bytes instead of being passed over first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a, const EAGER: bool> {
    #[serde(borrow, default)]
    api_version: BorrowedText<'a>,
    #[serde(borrow, default)]
    kind: BorrowedText<'a>,
    #[serde(borrow, default)]
    request: Option<Reading<'a, EAGER>>,
}

/// Group and kind of an object; versions do not matter to decisions.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct GroupKind<'a> {
    /// The API group; empty for the core.
    #[serde(borrow, default)]
    pub group: BorrowedText<'a>,
    /// The kind.
    #[serde(borrow, default)]
    pub kind: BorrowedText<'a>,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct UserInfo<'a> {
    /// The user's name.
    #[serde(borrow, default)]
    pub username: BorrowedText<'a>,
    /// Groups of the user.
    #[serde(borrow, default)]
    pub groups: Option<Vec<BorrowedText<'a>>>,
}

/// What the API server asks about.
#[derive(Clone, Debug, Default)]
pub struct Request<'a> {
    /// Identifies the request; the answer repeats it.
    pub uid: BorrowedText<'a>,
    /// What the object is.
    pub kind: GroupKind<'a>,
    /// `status`, `binding` and the like; empty for the object itself.
    pub sub_resource: BorrowedText<'a>,
    /// The object's name; empty when the API server is yet to make one up.
    pub name: BorrowedText<'a>,
    /// The object's namespace.
    pub namespace: BorrowedText<'a>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: BorrowedText<'a>,
    /// Who asks.
    pub user_info: Option<UserInfo<'a>>,
    /// The object as it would be stored; absent on `DELETE`.
    pub object: Reviewed<'a>,
    /// The object as it is stored; absent on `CREATE`.
    pub old_object: Option<&'a RawValue>,
    /// Nothing will be stored.
    pub dry_run: Option<bool>,
}

/// The object of a request.
#[derive(Clone, Debug, Default)]
pub enum Reviewed<'a> {
    /// There is none.
    #[default]
    None,
    /// A Pod, in the namespace of the request: the one that the API server has authorized.
    Pod(Box<Pod>),
    /// An object of another kind.
    Unread(&'a RawValue),
    /// A Pod that cannot be read, and where not; no word of it is quoted.
    Broken(String),
}

impl<'a> Reviewed<'a> {
    /// The object, if there is one and it is no Pod.
    #[must_use]
    pub const fn unread(&self) -> Option<&'a RawValue> {
        if let Self::Unread(object) = self { Some(object) } else { None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Field {
    Uid,
    Kind,
    SubResource,
    Name,
    Namespace,
    Operation,
    UserInfo,
    Object,
    OldObject,
    DryRun,
    #[serde(other)]
    Other,
}

struct Reading<'a, const EAGER: bool>(Request<'a>);

impl<'de: 'a, 'a, const EAGER: bool> Deserialize<'de> for Reading<'a, EAGER> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<const EAGER: bool>;
        impl<'de, const EAGER: bool> Visitor<'de> for Fields<EAGER> {
            type Value = Reading<'de, EAGER>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a request")
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut request = Request::default();
                let mut seen = [false; Field::Other as usize];
                while let Some(field) = map.next_key::<Field>()? {
                    if let Some(seen) = seen.get_mut(field as usize)
                        && std::mem::replace(seen, true)
                    {
                        return Err(de::Error::custom("a field of the request is there twice"));
                    }
                    request.read::<A, EAGER>(field, &mut map)?;
                }
                Ok(Reading(request))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'a> Request<'a> {
    /// Reads the request of a review.
    ///
    /// # Errors
    /// When the bytes are no review of the version that is served, or one that cannot be answered.
    pub fn parse(body: &'a [u8]) -> Result<Self, ReviewError> {
        // Once for all texts in it, not for each.
        let body = std::str::from_utf8(body).map_err(|_| ReviewError::NotUtf8)?;
        // What is wrong with a Pod is no reason to refuse its review: the second reading leaves the Pod aside.
        let review = match serde_json::from_str::<Review<'a, true>>(body) {
            Ok(Review { api_version, kind, request }) => {
                Review { api_version, kind, request: request.map(|read| Reading(read.0)) }
            }
            Err(_) => serde_json::from_str::<Review<'a, false>>(body)?,
        };
        if review.kind.0 != KIND || !review.api_version.starts_with("admission.k8s.io/") {
            return Err(ReviewError::OtherKind { kind: shown(&review.kind), api_version: shown(&review.api_version) });
        }
        if review.api_version.0 != API_VERSION {
            return Err(ReviewError::OtherVersion(shown(&review.api_version)));
        }
        let mut request = review.request.ok_or(ReviewError::NoRequest)?.0;
        // Its kind may stand behind it.
        if let Reviewed::Unread(raw) = request.object
            && request.is_of_pod()
        {
            let read = serde_json::from_str(raw.get());
            request.object = read.map_or_else(|error| Reviewed::Broken(place_of(&error)), Reviewed::Pod);
        }
        if let Reviewed::Pod(pod) = &mut request.object {
            set_namespace(&mut pod.metadata.namespace, &request.namespace);
        }
        if request.uid.is_empty() { Err(ReviewError::NoUid) } else { Ok(request) }
    }

    fn read<A: de::MapAccess<'a>, const EAGER: bool>(&mut self, field: Field, map: &mut A) -> Result<(), A::Error> {
        match field {
            Field::Uid => self.uid = map.next_value()?,
            Field::Kind => self.kind = map.next_value()?,
            Field::SubResource => self.sub_resource = map.next_value()?,
            Field::Name => self.name = map.next_value()?,
            Field::Namespace => self.namespace = map.next_value()?,
            Field::Operation => self.operation = map.next_value()?,
            Field::UserInfo => self.user_info = map.next_value()?,
            Field::Object if EAGER && self.is_of_pod() => {
                self.object = map.next_value::<Option<Box<Pod>>>()?.map_or(Reviewed::None, Reviewed::Pod);
            }
            Field::Object => {
                self.object = map.next_value::<Option<&RawValue>>()?.map_or(Reviewed::None, Reviewed::Unread);
            }
            Field::OldObject => self.old_object = map.next_value()?,
            Field::DryRun => self.dry_run = map.next_value()?,
            Field::Other => drop(map.next_value::<de::IgnoredAny>()?),
        }
        Ok(())
    }

    fn is_of_pod(&self) -> bool {
        self.kind.group.is_empty() && &*self.kind.kind == "Pod"
    }

    /// Who asks; nobody where the request does not say it.
    #[must_use]
    pub fn requester(&self) -> Option<Requester> {
        let user = self.user_info.as_ref().filter(|user| !user.username.is_empty())?;
        let groups = user.groups.iter().flatten().map(ToString::to_string).collect();
        Some(Requester { user: user.username.to_string(), groups })
    }

    /// True for a request of a member of one of the groups.
    #[must_use]
    pub fn is_by_one_of(&self, groups: &[String]) -> bool {
        let of_user = self.user_info.as_ref().and_then(|user| user.groups.as_deref()).unwrap_or_default();
        of_user.iter().any(|group| groups.iter().any(|wanted| **group == **wanted))
    }

    /// True when nothing will be stored.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run == Some(true)
    }
}

/// The request's namespace is the one that the API server has authorized.
pub(super) fn set_namespace(namespace: &mut Option<Text>, of_request: &str) {
    if !of_request.is_empty() && namespace.as_deref() != Some(of_request) {
        *namespace = Some(of_request.into());
    }
}

/// Where JSON cannot be read. The error's own text may quote the object.
pub(super) fn place_of(error: &serde_json::Error) -> String {
    format!("{:?} error at line {}, column {}", error.classify(), error.line(), error.column())
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
    /// Whether the same request may be let through later.
    pub refusal: Refusal,
}

/// How something is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// For good, as long as nobody does something about it: status 403.
    #[default]
    Forbidden,
    /// For now: status 429, upon which whoever drains a node tries again.
    NotNow,
}

impl Refusal {
    /// Reason and status, as clients tell them.
    const fn status(self) -> (&'static str, u16) {
        match self {
            Self::Forbidden => ("Forbidden", 403),
            Self::NotNow => ("TooManyRequests", 429),
        }
    }
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
    /// For metrics: what PinPolicies said, where they had, or may have had, a say.
    pub policy: Option<PolicyOutcome>,
}

/// What PinPolicies said about a Pod, as labels of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PolicyOutcome {
    /// The mode that holds; `off` leaves the Pod alone.
    pub mode: &'static str,
    /// `not_known`, `not_allowed`, `allowed`, or `excepted` where no other policy covers the Pod.
    pub outcome: &'static str,
}

impl PolicyOutcome {
    /// The outcome of a decision in which policies have a say.
    pub(super) fn of(decision: &crate::policy::Decision) -> Option<Self> {
        let outcome = match decision {
            _ if !decision.is_of_policies() => return None,
            _ if !decision.not_known.is_empty() => "not_known",
            _ if !decision.not_allowed.is_empty() => "not_allowed",
            _ if decision.covering.is_empty() => "excepted",
            _ => "allowed",
        };
        Some(Self { mode: decision.mode.map_or("off", crate::policy::Mode::as_str), outcome })
    }
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
    /// A claim was told who makes its volume.
    Announced,
    /// Refused for now.
    Held,
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
            Self::Announced => "announced",
            Self::Held => "held",
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
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: &'a BTreeMap<&'static str, String>,
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
        let patch = if self.patch.is_empty() { None } else { Some(STANDARD.encode(serde_json::to_vec(&self.patch)?)) };
        let status = self.denial.as_ref().map(|denial| {
            let (reason, code) = denial.refusal.status();
            Status { message: &denial.message, reason, code }
        });
        serde_json::to_vec(&ReviewAnswer {
            api_version: API_VERSION,
            kind: KIND,
            response: Response {
                uid,
                allowed: self.denial.is_none(),
                patch_type: patch.is_some().then_some("JSONPatch"),
                patch,
                status,
                warnings: &self.warnings,
                audit_annotations: &self.audit,
            },
        })
    }
}
