//! Properties of the answer to any bytes at all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latebind::admission::{Admission, Exemptions, Hook, respond};
use latebind::binding::Rules;
use latebind::cluster::Unlisted;
use latebind::policy::Mode;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::support::{review, view};

const REVIEWS: [&str; 6] = [
    "pod-pinned",
    "pod-generate-name",
    "pod-ephemeral-cordoned",
    "deployment-pinned",
    "stateful-set-pinned",
    "claim-selected",
];

/// Whatever the bytes are: either an error, or a whole answer whose patch applies.
fn check(body: &[u8], mode: Mode) {
    let (view, rules, exemptions) = (view(Unlisted::Absent), Rules::default(), Exemptions::default());
    let admission = Admission { view: &*view, rules: &rules, mode, exemptions: &exemptions };
    for hook in [Hook::Mutate, Hook::Validate] {
        let Ok(reply) = respond(hook, body, &admission) else { continue };
        let answer: Value = serde_json::from_slice(&reply.json).unwrap();
        let response = &answer["response"];
        assert_eq!(response["uid"].as_str(), Some(&*reply.uid));
        assert!(response["allowed"] == true || mode == Mode::Deny, "{answer}");
        assert_eq!(response["allowed"] == true, response.get("status").is_none());
        assert_eq!(response.get("patch").is_some(), response.get("patchType").is_some());
        for warning in response["warnings"].as_array().into_iter().flatten() {
            let warning = warning.as_str().unwrap();
            assert!(warning.chars().count() <= 256 && !warning.chars().any(char::is_control), "{warning:?}");
        }
        for (key, value) in response["auditAnnotations"].as_object().into_iter().flatten() {
            assert!(key.len() <= 63 && !key.contains('/') && value.as_str().unwrap().chars().count() <= 253);
        }
        let Some(patch) = response["patch"].as_str() else { continue };
        assert!(mode == Mode::Rewrite && hook == Hook::Mutate);
        let patch: json_patch::Patch = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
        // Not from the whole body: what nobody reads in it may be broken.
        let raw: RawReview<'_> = serde_json::from_slice(body).unwrap();
        let mut object: Value = serde_json::from_str(raw.request.object.get()).unwrap();
        json_patch::patch(&mut object, &patch).expect("the patch applies");
    }
}

#[derive(Deserialize)]
struct RawReview<'a> {
    #[serde(borrow)]
    request: RawRequest<'a>,
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow)]
    object: &'a RawValue,
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(Mode::ALL.to_vec())
}

fn replacement() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        json!({}),
        json!([]),
        json!(""),
        json!("kubernetes.io/hostname"),
        json!(7),
        json!(true),
        json!([{}]),
        json!([null]),
        json!({"": ""}),
        json!({"a~b/c": {"d": []}}),
    ])
}

/// Every value of a document, by its steps.
fn steps(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                steps(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), all);
            }
        }
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                steps(value, &format!("{at}/{index}"), all);
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_review_with_any_fields_replaced_is_answered(
        name in prop::sample::select(REVIEWS.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), replacement()), 1..4),
        mode in mode(),
    ) {
        let mut review = review(name);
        for (place, value) in edits {
            let mut all = Vec::new();
            steps(&review, "", &mut all);
            let at = place.get(&all).clone();
            *review.pointer_mut(&at).unwrap() = value;
        }
        check(&serde_json::to_vec(&review).unwrap(), mode);
    }

    #[test]
    fn a_review_with_any_bytes_replaced_is_answered_or_refused(
        name in prop::sample::select(REVIEWS.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        mode in mode(),
    ) {
        let mut body = serde_json::to_vec(&review(name)).unwrap();
        for (place, byte) in edits {
            let place = place.index(body.len());
            body[place] = byte;
        }
        if !whole {
            body.truncate(cut.index(body.len()));
        }
        check(&body, mode);
    }
}
