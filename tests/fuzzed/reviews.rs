//! Properties of the answer to any bytes at all.

use std::fs;
use std::path::Path;

use latebind::facts::Unlisted;
use latebind::policy::Mode;
use latebind_fuzz_checks::{cluster, review_in};
use proptest::prelude::*;
use serde_json::{Value, json};

const REVIEWS: [&str; 6] = [
    "pod-pinned",
    "pod-generate-name",
    "pod-ephemeral-cordoned",
    "deployment-pinned",
    "stateful-set-pinned",
    "claim-selected",
];

/// A review of `tests/data/reviews`.
fn review(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/reviews/{name}.json"));
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn check(body: &[u8], mode: Mode) {
    review_in(&cluster(Unlisted::Absent), body, mode);
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
