//! Whether a PinPolicy covers a Pod, and whether it allows the Pod's node: yes, no, or not known.

use k8s_openapi::jiff::Timestamp;

use super::request::{PinRequest, Requester};
use crate::binding::{ClusterView, Lookup, MOST_CLAIMS};
use crate::crd::{
    AllowedNodes, NamespacesOf, Operator, PinPolicySpec, PolicyException, RequestersOf, Requirement, Selector,
};
use crate::model::selector::labels;
use crate::model::{BETA_CLASS, ClaimTemplate, Labels, Pod, PodVolume, Text};

/// An answer of three values. What is not known says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    Unknown(String),
}

impl Truth {
    const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// Both; the second is asked only where it matters.
    fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::No => Self::No,
            Self::Yes => other(),
            Self::Unknown(why) => match other() {
                Self::No => Self::No,
                Self::Yes | Self::Unknown(_) => Self::Unknown(why),
            },
        }
    }

    /// One of both.
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Yes => Self::Yes,
            Self::No => other(),
            Self::Unknown(why) => match other() {
                Self::Yes => Self::Yes,
                Self::No | Self::Unknown(_) => Self::Unknown(why),
            },
        }
    }
}

/// Whether a policy covers a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Covers {
    Yes,
    No,
    /// It would, but for the exception at this place of its list.
    Excepted(usize),
    Unknown(String),
}

/// Whether the policy covers the Pod of the request.
pub(super) fn covers(spec: &PinPolicySpec, request: &PinRequest<'_>, view: &dyn ClusterView) -> Covers {
    let pod = request.pod;
    let selected = in_namespaces(spec.namespaces.as_ref(), pod.namespace(), view)
        .and(|| has_labels(spec.object_selector.as_ref(), labels(pod.metadata.labels.as_ref())))
        .and(|| by_requester(spec.requesters.as_ref(), request.requester))
        .and(|| of_classes(spec.storage_classes.as_deref(), pod, view));
    if selected == Truth::No {
        return Covers::No;
    }
    let mut not_known = None;
    for (place, exception) in spec.exceptions.iter().enumerate() {
        match excepts(exception, request) {
            Truth::Yes => return if selected == Truth::Yes { Covers::Excepted(place) } else { Covers::No },
            Truth::No => {}
            Truth::Unknown(why) => not_known = not_known.or(Some(why)),
        }
    }
    match (selected, not_known) {
        (Truth::Unknown(why), _) | (_, Some(why)) => Covers::Unknown(why),
        (Truth::Yes | Truth::No, None) => Covers::Yes,
    }
}

/// Whether an exception holds for the request; never from the second on at which it expires.
fn excepts(exception: &PolicyException, request: &PinRequest<'_>) -> Truth {
    if is_expired(exception, request.now) {
        return Truth::No;
    }
    let namespaces = exception.namespaces.as_deref();
    let named = namespaces.is_none_or(|names| names.iter().any(|name| name == request.pod.namespace()));
    // An exception for nobody in particular, which the schema does not let through, is none.
    Truth::of(named && (namespaces.is_some() || exception.requesters.is_some()))
        .and(|| by_requester(exception.requesters.as_ref(), request.requester))
}

/// True from the second on that the exception names.
#[must_use]
pub fn is_expired(exception: &PolicyException, now: Timestamp) -> bool {
    now >= exception.expires_at.0
}

fn in_namespaces(of: Option<&NamespacesOf>, name: &str, view: &dyn ClusterView) -> Truth {
    let Some(of) = of else { return Truth::Yes };
    if of.names.iter().flatten().any(|known| known == name) {
        return Truth::Yes;
    }
    let Some(wanted) = &of.selector else { return Truth::No };
    match view.namespace(name) {
        Lookup::Found(namespace) => has_labels(Some(wanted), labels(namespace.metadata.labels.as_ref())),
        // A Pod is created in a namespace that exists: it has not been read yet, or is not in the input.
        Lookup::Absent | Lookup::Unknown => Truth::Unknown(format!("the labels of namespace {name:?} are not known")),
    }
}

fn by_requester(of: Option<&RequestersOf>, requester: Option<&Requester>) -> Truth {
    let Some(of) = of else { return Truth::Yes };
    let Some(requester) = requester else { return Truth::Unknown("who creates the Pod is not known".to_owned()) };
    let is_user = of.users.iter().flatten().any(|user| *user == requester.user);
    let in_group = || of.groups.iter().flatten().any(|group| requester.groups.contains(group));
    let account = requester.user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let is_account = || {
        let named = |text: &String| text.split_once('/') == account && account.is_some();
        of.service_accounts.iter().flatten().any(named)
    };
    Truth::of(is_user || in_group() || is_account())
}

/// Whether one of the Pod's claims is of one of the classes. Of a claim that is not there yet the class is not known.
fn of_classes(classes: Option<&[String]>, pod: &Pod, view: &dyn ClusterView) -> Truth {
    let Some(classes) = classes else { return Truth::Yes };
    let claims = pod.spec.volumes.iter();
    let mut claims =
        claims.filter(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()).peekable();
    let mut answer = Truth::No;
    for volume in claims.by_ref().take(MOST_CLAIMS) {
        answer = answer.or(|| match class_of(volume, pod, view) {
            Lookup::Found(class) => Truth::of(classes.contains(&class)),
            Lookup::Absent => Truth::No,
            Lookup::Unknown => Truth::Unknown(format!("the class of volume {:?} is not known", volume.name)),
        });
        if answer == Truth::Yes {
            return answer;
        }
    }
    let more = claims.peek().is_some();
    answer.or(|| if more { Truth::Unknown("the Pod has more claims than are looked at".to_owned()) } else { Truth::No })
}

/// Name of the class of a volume's claim; absent where it has none.
fn class_of(volume: &PodVolume, pod: &Pod, view: &dyn ClusterView) -> Lookup<String> {
    let named = |name: Option<&str>| match name {
        Some("") => Lookup::Absent,
        Some(name) => Lookup::Found(name.to_owned()),
        None => view.default_class().map(|class| class.name().to_owned()),
    };
    if let Some(source) = &volume.persistent_volume_claim {
        return match view.claim(pod.namespace(), &source.claim_name) {
            Lookup::Found(claim) => named(claim.class_name()),
            Lookup::Absent | Lookup::Unknown => Lookup::Unknown,
        };
    }
    match volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref()) {
        Some(template) => named(class_name(template)),
        None => Lookup::Unknown,
    }
}

/// As [`crate::model::Claim::class_name`] has it: the annotation becomes the claim's.
fn class_name(template: &ClaimTemplate) -> Option<&str> {
    let annotations = template.metadata.as_ref().and_then(|metadata| metadata.annotations.as_ref());
    annotations
        .and_then(|annotations| annotations.get(BETA_CLASS))
        .or(template.spec.storage_class_name.as_ref())
        .map(Text::as_str)
}

/// Whether a Pod may name the node.
pub(super) fn allows(nodes: &AllowedNodes, name: &str, view: &dyn ClusterView) -> Truth {
    if nodes.names.iter().flatten().any(|known| known == name) {
        return Truth::Yes;
    }
    let Some(wanted) = &nodes.selector else { return Truth::No };
    match view.node(name) {
        Lookup::Found(node) => has_labels(Some(wanted), labels(node.metadata.labels.as_ref())),
        // It is known that there is no such Node, and so none with the labels.
        Lookup::Absent => Truth::No,
        Lookup::Unknown => Truth::Unknown(format!("the labels of node {name:?} are not known")),
    }
}

fn has_labels(wanted: Option<&Selector>, labels: &Labels) -> Truth {
    Truth::of(wanted.is_none_or(|wanted| selects(wanted, labels)))
}

/// Whether the labels are such as the selector asks for.
#[must_use]
pub fn selects(wanted: &Selector, labels: &Labels) -> bool {
    let equal = wanted
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| labels.get(key).is_some_and(|found| found.as_str() == value));
    equal && wanted.match_expressions.iter().flatten().all(|wanted| meets(wanted, labels))
}

fn meets(wanted: &Requirement, labels: &Labels) -> bool {
    let found = labels.get(&wanted.key).map(Text::as_str);
    let has_one = || found.is_some_and(|found| wanted.values.iter().flatten().any(|value| value == found));
    match wanted.operator {
        Operator::In => has_one(),
        Operator::NotIn => !has_one(),
        Operator::Exists => found.is_some(),
        Operator::DoesNotExist => found.is_none(),
    }
}
