//! Manifests as people and tools write them: what is read, where it stands, and what is refused.
#![allow(clippy::unwrap_used)]

use latebind::binding::FieldPath;
use latebind::yaml::{AliasBudget, Content, Document, Located, documents};
use serde_json::{Value, json};

fn values(text: &str) -> Vec<Result<Value, String>> {
    let mut budget = AliasBudget::default();
    let read = |document: Document<'_>| document.value(&mut budget).map_err(|error| error.to_string());
    documents(text).into_iter().map(read).collect()
}

fn located(text: &str) -> Located {
    documents(text)[0].located(&mut AliasBudget::default()).unwrap().unwrap()
}

fn path(text: &str) -> FieldPath {
    FieldPath::new(&text.split('.').collect::<Vec<_>>())
}

const POD: &str = "\
# a Pod
apiVersion: v1
kind: Pod
metadata: {name: \"web\", labels: {app: web}}
spec:
  nodeName: k3d-test-server-0 # pinned
  containers:
    - name: a
      args: [\"-c\", |-
        x]
    - name: 'ü'
  volumes:
  - name: data
    persistentVolumeClaim:
      claimName: data
";

#[test]
fn every_key_and_value_knows_its_place() {
    let text = POD.replace("      args: [\"-c\", |-\n        x]\n", "");
    let tree = located(&text);
    let at = |steps: &str| {
        let spot = tree.find(&path(steps)).unwrap();
        let key = spot.entry.map(|entry| (entry.key_span.start.line, entry.key_span.start.column));
        (key, spot.value.span.of(&text).to_owned(), spot.span().of(&text).to_owned())
    };
    let node_name = "nodeName: k3d-test-server-0".to_owned();
    assert_eq!(at("spec.nodeName"), (Some((6, 3)), "k3d-test-server-0".to_owned(), node_name));
    assert_eq!(at("metadata.name").1, "\"web\"");
    assert_eq!(at("metadata.labels"), (Some((4, 25)), "{app: web}".to_owned(), "labels: {app: web}".to_owned()));
    assert_eq!(at("spec.containers.1.name"), (Some((9, 7)), "'ü'".to_owned(), "name: 'ü'".to_owned()));
    assert_eq!(at("spec.volumes.0.persistentVolumeClaim").2, "persistentVolumeClaim:\n      claimName: data");
    assert!(at("spec.volumes").2.starts_with("volumes:\n  - name: data"));
    assert!(at("spec").2.ends_with("claimName: data"));
    assert_eq!(tree.find(&path("spec.nodeName.x")), None);
    assert_eq!(tree.nearest(&path("spec.affinity.nodeAffinity")).span().of(&text), at("spec").2);
    assert_eq!(tree.to_value(), values(&text)[0].clone().unwrap());
}

#[test]
fn documents_end_at_marker_lines_only() {
    let text = "\u{feff}# comment only\n---\n---\na: 1\n--- # next\nb: |\n  x\n   --- not a marker\n  y\n---\r\nc: 3\r\n...\r\nd: 4\n--- {e: 5}\n---\n# nothing\n";
    let read: Vec<Value> = values(text).into_iter().map(Result::unwrap).collect();
    assert_eq!(
        read,
        [json!({"a": 1}), json!({"b": "x\n --- not a marker\ny\n"}), json!({"c": 3}), json!({"d": 4}), json!({"e": 5})]
    );
    let starts: Vec<_> = documents(text).iter().map(|document| (document.index, document.start.line)).collect();
    assert_eq!(starts, [(0, 3), (1, 5), (2, 10), (3, 13), (4, 14)]);
    assert_eq!(values("%YAML 1.2\n---\na: 1\n---\nb: 2"), [Ok(json!({"a": 1})), Ok(json!({"b": 2}))]);
    assert_eq!(values(""), []);
    assert_eq!(values("---\n...\n---"), []);
    assert_eq!(values("---x: 1"), [Ok(json!({"---x": 1}))]);
}

#[test]
fn a_broken_document_leaves_the_others_whole() {
    let text = "a: 1\n---\nb: [1, 2\n---\nc: 'open\n---\nd: 1\n  e: 2\n---\nf: \"x\n---\ng: 7\n";
    let read = values(text);
    let good: Vec<_> = read.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, false, false, false, true], "{read:?}");
    assert_eq!(read[5], Ok(json!({"g": 7})));
    for (place, line) in [(1, "3:"), (2, "5:"), (3, "8:")] {
        let message = read[place].as_ref().unwrap_err();
        let at: usize = message.split(':').next().unwrap().parse().unwrap();
        let first: usize = line.trim_end_matches(':').parse().unwrap();
        assert!((first..=first + 1).contains(&at), "{message}");
    }
}

#[test]
fn json_comes_one_by_one_or_in_a_row() {
    assert_eq!(
        values("{\"a\": 1}\n{\"b\": [\t2]}{\"c\":{}}"),
        [Ok(json!({"a": 1})), Ok(json!({"b": [2]})), Ok(json!({"c": {}}))]
    );
    let hard = "{\n\t\"s\\/\\u00e9\\ud83d\\ude00\":\"\\t\\\"\",\"n\":-1.5e3,\"on\":true,\"e\":[],\"o\":{\"k\":null}}";
    assert_eq!(values(hard), [Ok(serde_json::from_str(hard).unwrap())]);
    let tree = located(hard);
    assert_eq!(tree.find(&path("o.k")).unwrap().span().of(hard), "\"k\":null");
    assert_eq!(tree.find(&path("o.k")).unwrap().span().start.line, 2);
    // The third is broken; it does not hide the first two.
    let read = values("{\"a\": 1}\n{\"b\": 2}\n{\"c\": \n");
    assert_eq!(read[..2], [Ok(json!({"a": 1})), Ok(json!({"b": 2}))]);
    assert!(read[2].is_err(), "{read:?}");
    // Braces alone make no JSON.
    assert_eq!(values("{a: b}\n---\nc: d\n"), [Ok(json!({"a": "b"})), Ok(json!({"c": "d"}))]);
    let second = documents("{\"a\": 1}  {\"b\": 2}")[1].start;
    assert_eq!((second.line, second.column, second.byte), (1, 11, 10));
    let long = format!("{{\"{}\": 1}}", "k".repeat(5000));
    assert_eq!(values(&long)[0], Ok(serde_json::from_str(&long).unwrap()));
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let text = "base: &base\n  x: 1\n  q: 2\nuse:\n  <<: *base\n  q: 3\nlist: [*base]\nmany:\n  <<: [*base, {z: 9}]\n";
    let base = json!({"x": 1, "q": 2});
    let many = json!({"x": 1, "q": 2, "z": 9});
    let whole = json!({"base": base, "use": {"x": 1, "q": 3}, "list": [base], "many": many});
    assert_eq!(values(text), [Ok(whole.clone())]);
    let tree = located(text);
    assert_eq!(tree.to_value(), whole);
    assert!(tree.find(&path("use.x")).unwrap().is_aliased());
    assert!(!tree.find(&path("use.q")).unwrap().is_aliased());
    assert!(tree.find(&path("list.0.q")).unwrap().is_aliased());
    assert_eq!(tree.find(&path("use.x")).unwrap().span().start.line, 2);
}

#[test]
fn quotes_styles_and_tags_decide_types() {
    let text = "a: 'on'\nb: on\nc: \"1\"\nd: !!str 1\ne: !!int \"7\"\nf: |\n  on\ng: >-\n  one\n  two\nh:\ni: ~\non: 1\n1: x\n";
    let expected = json!({
        "a": "on", "b": true, "c": "1", "d": "1", "e": 7, "f": "on\n", "g": "one two", "h": null, "i": null,
        "true": 1, "1": "x"
    });
    assert_eq!(values(text), [Ok(expected)]);
    let tree = located(text);
    let Content::Mapping { entries, flow: false } = &tree.content else { panic!("{tree:?}") };
    assert_eq!(entries[0].key, "a");
}

#[test]
fn what_is_refused_says_where_and_why() {
    let deep_flow = format!("a: {}", "[".repeat(10_000));
    let deep_block = (0..1000).fold(String::new(), |text, depth| text + &" ".repeat(depth) + "a:\n");
    let bomb = (1..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, level| {
        let below = level - 1;
        text + &format!("a{level}: &a{level} [*a{below}, *a{below}, *a{below}]\n")
    });
    let ladder = (1..2000)
        .fold("a0: &a0 [x]\n".to_owned(), |text, level| text + &format!("a{level}: &a{level} [*a{}]\n", level - 1));
    let cases = [
        ("a: 1\nb: 2\na: 3\n", "3:1: the key \"a\" is given twice"),
        ("{\"a\": 1, \"a\": 2}", "1:10: the key \"a\" is given twice"),
        ("x:\n  a: 1\n  \"a\": 1\n", "3:3: the key \"a\" is given twice"),
        (&deep_flow, "nested deeper"),
        (&deep_block, "nested deeper"),
        (&bomb, "too large"),
        (&ladder, "aliases nest deeper"),
        ("a: &a [*a]\n", "an alias stands within the value"),
        ("a: *nowhere\n", "1:4"),
        ("a:\n\tb: 1\n", "tab"),
        ("{{ .Values.x }}: 1\n", "where a key is due"),
        ("? [a]\n: b\n", "where a key is due"),
        ("a: .inf\n", "1:4: JSON"),
        ("a: b: c\n", "1:"),
        ("<<: 1\n", "merge key"),
        (": 1\n", "a key is missing"),
    ];
    for (text, expected) in cases {
        let read = values(text);
        let message = read[0].as_ref().unwrap_err();
        assert!(message.contains(expected), "{expected:?} not in {message:?} for {:?}", &text[..text.len().min(60)]);
    }
}

#[test]
fn aliases_of_all_documents_share_one_budget() {
    let document = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), "*a, ".repeat(9));
    let text = [document.as_str(); 3].join("---\n");
    let good: Vec<_> = values(&text).iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, false]);
}

mod files {
    use std::fs;
    use std::path::Path;

    use latebind::binding::{ClusterView, FieldPath, Kind, Lookup};
    use latebind::facts::Fact;
    use latebind::facts::files::{
        Input, ManifestError, Manifests, Request, Subject, directory_fingerprint, load_directory,
    };
    use latebind::yaml;

    fn read(files: &[&Path], objects: &[&Path]) -> Manifests {
        let inputs = |paths: &[&Path]| paths.iter().map(|path| Input::Path((*path).to_owned())).collect();
        let request = Request {
            nodes_complete: false,
            files: inputs(files),
            objects: inputs(objects),
            recursive: true,
            namespace: Some("team".to_owned()),
        };
        Manifests::read(&request).unwrap()
    }

    fn problems(manifests: &Manifests) -> Vec<String> {
        manifests.problems.iter().map(ToString::to_string).collect()
    }

    const CLASS: &str = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: local-path}\nprovisioner: rancher.io/local-path\nvolumeBindingMode: WaitForFirstConsumer\n";

    #[test]
    fn lists_are_taken_apart_and_paths_lead_back_into_them() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("list.yaml");
        let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a}
  spec:
    nodeName: n1
- apiVersion: v1
  kind: List
  items:
  - apiVersion: apps/v1
    kind: Deployment
    metadata: {name: b, namespace: own}
    spec: {template: {spec: {nodeName: n2}}}
---
apiVersion: v1
kind: PersistentVolumeClaimList
items:
- metadata: {name: c}
  spec: {storageClassName: local-path}
";
        fs::write(&file, text).unwrap();
        let manifests = read(&[&file], &[]);
        assert_eq!(problems(&manifests), Vec::<String>::new());
        let seen: Vec<_> = manifests
            .objects
            .iter()
            .map(|object| (object.reference(), object.namespace.clone(), object.origin.prefix.to_string()))
            .collect();
        let expected = [
            ("pod/a", "team", "items[0]"),
            ("deployment/b", "own", "items[1].items[0]"),
            ("persistentvolumeclaim/c", "team", "items[0]"),
        ];
        assert_eq!(seen, expected.map(|(name, namespace, prefix)| (name.into(), namespace.into(), prefix.into())));
        let place = manifests.objects[0].origin.place(&FieldPath::new(&["spec", "nodeName"]));
        assert_eq!(place.to_string(), format!("{}:8:5", file.display()));
        let place = manifests.objects[1].origin.place(&FieldPath::new(&["spec", "template", "spec", "nodeName"]));
        assert_eq!(place.span.unwrap().of(text), "nodeName: n2");
        // A field that does not exist leads to the nearest one around it.
        let place = manifests.objects[2].origin.place(&FieldPath::new(&["spec", "volumeName"]));
        assert_eq!(place.to_string(), format!("{}:21:3", file.display()));
        assert!(matches!(manifests.facts().claim("team", "c"), Lookup::Found(_)));
        assert!(matches!(&manifests.objects[1].subject, Subject::Workload(workload) if workload.name() == "b"));
    }

    #[test]
    fn what_is_looked_at_wins_over_what_is_a_fact_only() {
        let directory = tempfile::tempdir().unwrap();
        let (looked_at, facts) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
        fs::write(&looked_at, CLASS).unwrap();
        fs::write(&facts, CLASS.replace("WaitForFirstConsumer", "Immediate")).unwrap();
        let manifests = read(&[&looked_at], &[&facts]);
        assert_eq!(manifests.objects.len(), 2);
        assert_eq!(manifests.checked().count(), 1);
        let Lookup::Found(class) = manifests.facts().class("local-path") else { panic!("{manifests:?}") };
        assert!(class.is_delayed());
        assert!(matches!(manifests.facts().class("other"), Lookup::Unknown));
    }

    #[test]
    fn errors_name_file_line_column_and_field() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.yaml");
        let text = "\
apiVersion: v1
kind: Pod
metadata: {name: on}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      resources: {requests: {storage: lots}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          nodeName: 7
---
kind: Pod
---
just text
---
a: {{ .Values.x }}
---
apiVersion: v1
kind: Namespace
metadata: {name: fine}
";
        fs::write(&file, text).unwrap();
        let manifests = read(&[&file], &[]);
        let found = problems(&manifests);
        let expected = [
            ("bad.yaml:3:12: pod/(no name): metadata.name: invalid type: boolean `true`, expected a string; kubectl reads on without quotes as true, so write \"on\" if it is meant as text"),
            ("bad.yaml:12:30: statefulset/set: spec.volumeClaimTemplates[0].spec.resources.requests.storage: "),
            ("bad.yaml:22:11: cronjob/tick: spec.jobTemplate.spec.template.spec.nodeName: invalid type: integer `7`"),
            ("bad.yaml:24:1: not a Kubernetes object: apiVersion is missing"),
            ("bad.yaml:26:1: not a Kubernetes object"),
            ("bad.yaml:28:5: a mapping stands where a key is due; templates"),
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{expected:?} not in {found:?}");
        }
        assert_eq!(manifests.objects.len(), 1);
    }

    #[test]
    fn directories_hold_other_things_too() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for sub in ["chart/templates", ".git", "..data"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        fs::write(root.join("values.yaml"), "replicas: 2\n").unwrap();
        fs::write(root.join("notes.txt"), "not: [yaml\n").unwrap();
        fs::write(root.join(".git/config.yaml"), "also: [not\n").unwrap();
        fs::write(root.join("..data/class.yaml"), CLASS).unwrap();
        fs::write(root.join("utf16.yml"), [0xff, 0xfe, b'a', 0]).unwrap();
        fs::write(root.join("latin1.yml"), b"a: 1\nb: \xe9\n").unwrap();
        fs::write(root.join("chart/templates/class.yaml"), CLASS).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("..data/class.yaml", root.join("mounted.yaml")).unwrap();
            std::os::unix::fs::symlink("..", root.join("loop")).unwrap();
            std::os::unix::fs::symlink("nowhere", root.join("dangling.yaml")).unwrap();
        }
        let manifests = read(&[root], &[]);
        let found = problems(&manifests);
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].ends_with("latin1.yml:2:4: byte 8 is not valid UTF-8; save the file as UTF-8"), "{found:?}");
        assert!(found[1].contains("utf16.yml:1:1: the text is UTF-16"), "{found:?}");
        assert_eq!(manifests.notes.len(), 1, "{:?}", manifests.notes);
        assert!(manifests.notes[0].to_string().contains("values.yaml:1:1: not a Kubernetes object"));
        let names: Vec<_> = manifests.objects.iter().map(|object| object.origin.source().name.clone()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names[0].ends_with("chart/templates/class.yaml") && names[1].ends_with("mounted.yaml"), "{names:?}");
    }

    #[test]
    fn an_input_that_was_named_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let missing = Request { files: vec![Input::Path(directory.path().join("no.yaml"))], ..Request::default() };
        assert!(matches!(Manifests::read(&missing), Err(ManifestError::NotFound(_))));
        let empty = Request { files: vec![Input::Path(directory.path().to_owned())], ..Request::default() };
        let message = Manifests::read(&empty).unwrap_err().to_string();
        assert!(message.ends_with("no .yaml, .yml or .json files; add -R to look into subdirectories"), "{message}");
        let twice = Request { files: vec![Input::Stdin, Input::Stdin], ..Request::default() };
        assert!(matches!(Manifests::read(&twice), Err(ManifestError::StdinTwice)));
    }

    #[test]
    fn a_directory_to_serve_from_is_whole_or_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let nothing = load_directory(directory.path()).unwrap();
        assert_eq!(nothing.objects, 0);
        fs::write(directory.path().join("class.yaml"), CLASS).unwrap();
        let one = load_directory(directory.path()).unwrap();
        assert!(matches!(one.view.class("local-path"), Lookup::Found(_)));
        assert_ne!(nothing.fingerprint, one.fingerprint);
        assert_eq!(one.fingerprint, directory_fingerprint(directory.path()).unwrap());
        fs::write(directory.path().join("broken.yaml"), "a: 1\nb: [\n").unwrap();
        let error = load_directory(directory.path()).unwrap_err().to_string();
        assert!(error.contains("broken.yaml:2:4: "), "{error}");
    }

    #[test]
    fn a_list_of_one_kind_holds_all_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let known = |text: &str, kind: Kind| {
            let file = directory.path().join("facts.yaml");
            fs::write(&file, text).unwrap();
            read(&[&file], &[]).facts().knows_all(kind)
        };
        let node = "{apiVersion: v1, kind: Node, metadata: {name: n1}}";
        let volume = "{apiVersion: v1, kind: PersistentVolume, metadata: {name: v1}}";
        assert!(!known(node, Kind::Nodes));
        for list in ["List", "NodeList"] {
            assert!(known(&format!("{{apiVersion: v1, kind: {list}, items: [{node}]}}"), Kind::Nodes), "{list}");
        }
        assert!(known("{apiVersion: v1, kind: NodeList, items: []}", Kind::Nodes));
        assert!(known("{apiVersion: v1, kind: NodeList, items: [{metadata: {name: n1}}]}", Kind::Nodes));
        let mixed = format!("{{apiVersion: v1, kind: List, items: [{node}, {volume}]}}");
        assert!(!known(&mixed, Kind::Nodes) && !known(&mixed, Kind::Volumes), "anybody may have written it");
        assert!(known(&format!("{{apiVersion: v1, kind: List, items: [{volume}]}}"), Kind::Volumes));
        assert!(!known("{apiVersion: v1, kind: List, items: []}", Kind::Nodes));
        let class = "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: c}}";
        assert!(known(&format!("{{apiVersion: v1, kind: List, items: [{class}]}}"), Kind::Classes));
    }

    #[test]
    fn several_mebibytes_are_no_trouble() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("large.yaml");
        let note = "long ".repeat(1_000);
        let claim = |number| {
            format!(
                "---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: c{number}, annotations: {{note: {note}}}}}\nspec: {{storageClassName: x}}\n"
            )
        };
        let text: String = (0..1_600).map(claim).collect();
        assert!(text.len() > 7 << 20);
        fs::write(&file, &text).unwrap();
        let manifests = read(&[&file], &[]);
        assert_eq!(manifests.objects.len(), 1_600);
        let last = manifests.objects.last().unwrap();
        assert!(matches!(&last.subject, Subject::Fact(fact) if matches!(&**fact, Fact::Claim(_))));
        assert_eq!(last.origin.place(&FieldPath::new(&["spec"])).span.unwrap().start.line, 1_600 * 5);
        assert_eq!(yaml::documents(&text).len(), 1_600);
    }
}
