//! The largest objects that an API server takes, made as costly as one can: how long each takes, and what small reviews
//! beside it notice.

use serde_json::{Value, json};

/// What an API server takes of one object, in bytes.
pub const LARGEST: usize = 3 << 20;

/// A review that is as costly as it can be made in one way.
pub struct Worst {
    /// What there is much of.
    pub name: &'static str,
    /// Which webhook is asked.
    pub path: &'static str,
    /// The review.
    pub body: Vec<u8>,
}

/// Every way that is known, from the review of a Pod: each object has so many bytes.
pub fn reviews(pod: &Value, bytes: usize) -> Vec<Worst> {
    let claim = |name: String| json!({"name": format!("v-{name}"), "persistentVolumeClaim": {"claimName": name}});
    let template = json!({"spec": {"storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}}});
    let term = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
    let of_pod = |name, path, list: &[&str], item: &dyn Fn(usize) -> Value| Worst {
        name,
        path,
        body: filled(pod, bytes, &[&["request", "object"], list].concat(), item),
    };
    let affinity = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let mut all = vec![
        of_pod("claims", "/mutate", &["spec", "volumes"], &|n| claim(format!("c{n}"))),
        of_pod("claims", "/validate", &["spec", "volumes"], &|n| claim(format!("c{n}"))),
        of_pod("one claim again and again", "/mutate", &["spec", "volumes"], &|_| claim("shop-data".to_owned())),
        of_pod(
            "ephemeral volumes",
            "/mutate",
            &["spec", "volumes"],
            &|n| json!({"name": format!("e{n}"), "ephemeral": {"volumeClaimTemplate": template}}),
        ),
        of_pod("other volumes", "/mutate", &["spec", "volumes"], &|_| json!({"emptyDir": {}})),
        of_pod("containers", "/mutate", &["spec", "containers"], &|n| json!({"name": format!("c{n}")})),
        of_pod("empty containers", "/mutate", &["spec", "containers"], &|_| json!({})),
        of_pod(
            "mounts",
            "/mutate",
            &["spec", "containers", "0", "volumeMounts"],
            &|n| json!({"name": format!("v{n}")}),
        ),
        of_pod(
            "tolerations",
            "/mutate",
            &["spec", "tolerations"],
            &|n| json!({"key": format!("k{n}"), "operator": "Exists"}),
        ),
        of_pod("affinity terms", "/mutate", &[&["spec"], &affinity[..]].concat(), &|_| term.clone()),
        of_pod(
            "spread constraints",
            "/mutate",
            &["spec", "topologySpreadConstraints"],
            &|_| json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}),
        ),
        of_pod("what nobody reads", "/mutate", &["spec", "overhead"], &|_| json!([])),
    ];
    let mut set = pod.clone();
    // It comes after the object, once.
    set["request"].as_object_mut().unwrap().remove("oldObject");
    set["request"]["kind"] = json!({"group": "apps", "version": "v1", "kind": "StatefulSet"});
    let template = json!({"metadata": {}, "spec": pod["request"]["object"]["spec"]});
    set["request"]["object"] = json!({"metadata": {"name": "s", "namespace": "team-a"},
        "spec": {"replicas": 100_000, "template": template, "volumeClaimTemplates": []}});
    let of_set = |name, list: &[&str], item: &dyn Fn(usize) -> Value| {
        let mut body = filled(&set, bytes, &[&["request", "object", "spec"], list].concat(), item);
        // An update has two objects of that size.
        let text = String::from_utf8(body.clone()).unwrap();
        let object: Value = serde_json::from_slice(&body).unwrap();
        let old = format!(",\"oldObject\":{}}}}}", object["request"]["object"]);
        body.truncate(text.trim_end().len() - 2);
        body.extend(old.into_bytes());
        Worst { name, path: "/validate", body }
    };
    all.extend([
        of_set(
            "StatefulSet: claim templates",
            &["volumeClaimTemplates"],
            &|n| json!({"metadata": {"name": format!("t{n}")}, "spec": {"storageClassName": "local-path"}}),
        ),
        of_set(
            "StatefulSet: mounts",
            &["template", "spec", "containers", "0", "volumeMounts"],
            &|n| json!({"name": n.to_string()}),
        ),
        of_set("StatefulSet: what nobody reads", &["paddings"], &|_| json!({})),
        of_set("StatefulSet: small maps", &["template", "paddings"], &|_| json!({"a": 1})),
    ]);
    all
}

/// The review with a list as long as it can be.
fn filled(review: &Value, bytes: usize, list: &[&str], item: impl Fn(usize) -> Value) -> Vec<u8> {
    let mut review = review.clone();
    let mut length = review.to_string().len();
    let mut items = Vec::new();
    for place in 0.. {
        let item = item(place);
        length += item.to_string().len() + 1;
        if length > bytes {
            break;
        }
        items.push(item);
    }
    let place = list.iter().fold(&mut review, |value, key| match key.parse::<usize>() {
        Ok(index) => &mut value[index],
        Err(_) => &mut value[*key],
    });
    *place = Value::Array(items);
    serde_json::to_vec(&review).unwrap()
}
