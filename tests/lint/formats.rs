//! Every format, on honest and on hostile input.

use serde_json::Value;

use super::{FACTS, Run, lint, stuck_pod};

/// A name that tries to steer terminals, forges, XML and YAML.
const HOSTILE: &str = r#""a%0A::error::x]]>&<b>\"'\u001b[31m\u202e\u0085\r\n::stop-commands::x,y:z `*|""#;

fn hostile() -> String {
    format!("{FACTS}---\n{}", stuck_pod(&format!("{{name: {HOSTILE}, namespace: default}}")))
}

fn run(format: &str, input: &str) -> Run {
    lint(&["-f", "-", "-o", format], input)
}

#[test]
fn nothing_hostile_gets_through() {
    for format in
        ["table", "json", "yaml", "sarif", "junit", "github", "gitlab", "markdown", "openreports", "policyreport"]
    {
        let run = run(format, &hostile());
        assert_eq!(run.code, 1, "{format}: {}", run.stderr);
        for character in run.stdout.chars() {
            let harmful = character.is_control() && character != '\n' || character == '\u{202e}';
            assert!(!harmful, "{format}: {character:?} in {}", run.stdout);
        }
        assert!(run.stdout.contains("LB001"), "{format}");
    }
}

#[test]
fn json_and_yaml_say_the_same() {
    for input in [hostile(), format!("{FACTS}---\n{}", stuck_pod("{name: a}"))] {
        let json: Value = serde_json::from_str(&run("json", &input).stdout).unwrap();
        let yaml: Value = serde_saphyr::from_str(&run("yaml", &input).stdout).unwrap();
        assert_eq!(json, yaml);
        assert_eq!((&json["apiVersion"], &json["kind"]), (&"latebind.dev/v1alpha1".into(), &"FindingList".into()));
        assert_eq!(json["summary"]["errors"], 1);
        assert_eq!(json["items"][0]["object"]["kind"], "Pod");
        assert!(json["items"][0]["fix"]["replacements"][0]["text"].as_str().unwrap().contains("nodeSelector"));
    }
    let json: Value = serde_json::from_str(&run("json", &hostile()).stdout).unwrap();
    let name: String = serde_json::from_str(HOSTILE).unwrap();
    assert_eq!(json["items"][0]["object"]["name"], name, "escaped, not changed");
}

fn sarif_validator() -> jsonschema::Validator {
    let schema = std::fs::read_to_string("tests/schemas/sarif-schema-2.1.0.json").unwrap();
    // As published, the pattern of languages has a stray bracket, which is no regular expression of ECMA 262.
    let stray = r#""^[a-zA-Z]{2}|^[a-zA-Z]{2}-[a-zA-Z]{2}]?$""#;
    assert!(schema.contains(stray));
    let schema = schema.replace(stray, r#""^[a-zA-Z]{2}(-[a-zA-Z]{2})?$""#);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

#[track_caller]
fn valid_sarif(args: &[&str], stdin: &str) -> Value {
    let run = lint(&[args, &["-o", "sarif"]].concat(), stdin);
    let log: Value = serde_json::from_str(&run.stdout).unwrap();
    let errors: Vec<String> =
        sarif_validator().iter_errors(&log).map(|error| format!("{error} at {}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    log
}

#[test]
fn the_schema_refuses_what_is_not_sarif() {
    assert!(!sarif_validator().is_valid(&serde_json::json!({"version": "2.1.0"})));
    assert!(!sarif_validator().is_valid(&serde_json::json!({"version": "2.1.0", "runs": [{"tool": {}}]})));
}

#[test]
fn sarif_is_valid() {
    valid_sarif(&["-f", "tests/lint/mixed"], "");
    valid_sarif(&["-f", "-"], &hostile());
    valid_sarif(&["-f", "-"], "");
    valid_sarif(&["-f", "-"], &format!("{FACTS}---\nkind: [\n---\n{}", stuck_pod("{name: a}")));
    let ignored = stuck_pod("{name: a, annotations: {latebind.dev/ignore: 'LB001: by hand'}}");
    let log = valid_sarif(&["-f", "-"], &format!("{FACTS}---\n{ignored}"));
    let result = &log["runs"][0]["results"][0];
    assert_eq!(result["suppressions"][0]["kind"], "inSource");
    assert_eq!(result["suppressions"][0]["justification"], "by hand");
}

#[test]
fn sarif_holds_place_rule_and_replacement() {
    let log = valid_sarif(&["-f", "./tests/lint/mixed/bad.json", "--objects", "tests/lint/mixed/cluster.yaml"], "");
    let run = &log["runs"][0];
    let result = &run["results"][0];
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "tests/lint/mixed/bad.json");
    assert_eq!((&place["region"]["startLine"], &place["region"]["startColumn"]), (&9.into(), &5.into()));
    let rule = &run["tool"]["driver"]["rules"][usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()];
    assert_eq!(rule["id"], result["ruleId"]);
    assert!(rule["helpUri"].as_str().unwrap().ends_with("#lb001"));
    // The replacement, carried out by line and column, is what --fix would write.
    let replacement = &result["fixes"][0]["artifactChanges"][0]["replacements"][0];
    let region = &replacement["deletedRegion"];
    let number = |key: &str| usize::try_from(region[key].as_u64().unwrap()).unwrap();
    let text = std::fs::read_to_string("tests/lint/mixed/bad.json").unwrap();
    let at =
        |line: usize, column: usize| text.lines().take(line - 1).map(|line| line.len() + 1).sum::<usize>() + column - 1;
    let (start, end) = (at(number("startLine"), number("startColumn")), at(number("endLine"), number("endColumn")));
    assert_eq!(&text[start..end], "\"nodeName\": \"worker-1\"");
    let after =
        format!("{}{}{}", &text[..start], replacement["insertedContent"]["text"].as_str().unwrap(), &text[end..]);
    let value: Value = serde_json::from_str(&after).unwrap();
    assert_eq!(value["spec"]["nodeSelector"], serde_json::json!({"kubernetes.io/hostname": "worker-1"}));
}

#[test]
fn fingerprints_survive_lines_that_move() {
    let print = |input: &str| {
        let log = valid_sarif(&["-f", "-"], input);
        log["runs"][0]["results"][0]["partialFingerprints"]["latebindFinding/v1"].as_str().unwrap().to_owned()
    };
    let pod = stuck_pod("{name: a}");
    let first = print(&format!("{FACTS}---\n{pod}"));
    assert_eq!(first, print(&format!("# one line more\n{FACTS}---\n\n\n{pod}")));
    assert_ne!(first, print(&format!("{FACTS}---\n{}", stuck_pod("{name: b}"))));
    assert_eq!(first, "8916af946afc17f1", "fingerprints must not change from version to version");
}

#[test]
fn junit_has_a_case_an_object_and_check() {
    let ignored = stuck_pod("{name: b, annotations: {latebind.dev/ignore: 'LB001: by <hand>'}}");
    let input = format!("{FACTS}---\n{}---\n{ignored}", stuck_pod("{name: a}"));
    let xml = run("junit", &input).stdout;
    assert!(xml.contains(r#"tests="5" failures="1" errors="0" skipped="1""#), "{xml}");
    assert!(xml.contains(r#"<skipped message="by &lt;hand&gt;"/>"#), "{xml}");
    assert!(xml.contains(r#"classname="storageclass/local-path" name="no findings""#), "{xml}");
    let never = lint(&["-f", "-", "-o", "junit", "--fail-on=never"], &input).stdout;
    assert!(never.contains(r#"failures="0""#), "{never}");
}

#[test]
fn policy_reports_have_a_report_for_each_namespace_and_say_what_was_not_read() {
    let ignored = stuck_pod("{name: b, namespace: default, annotations: {latebind.dev/ignore: 'LB001: by hand'}}");
    let input = format!("{FACTS}---\n{}---\n{ignored}---\nkind: [", stuck_pod("{name: a, namespace: default}"));
    for (format, version, kinds) in [
        ("openreports", "openreports.io/v1alpha1", ["ClusterReport", "Report"]),
        ("policyreport", "wgpolicyk8s.io/v1alpha2", ["ClusterPolicyReport", "PolicyReport"]),
    ] {
        let list: Value = serde_saphyr::from_str(&run(format, &input).stdout).unwrap();
        assert_eq!(list["kind"], "List");
        let items = list["items"].as_array().unwrap();
        let found: Vec<&str> = items.iter().map(|it| it["kind"].as_str().unwrap()).collect();
        assert_eq!(found, kinds, "{list:#}");
        assert!(items.iter().all(|it| it["apiVersion"] == version && it["metadata"]["name"] == "latebind"));
        let [cluster, namespace] = items.as_slice() else { panic!("{list:#}") };
        assert!(cluster["metadata"].get("namespace").is_none() && namespace["metadata"]["namespace"] == "default");
        assert_eq!((&cluster["summary"]["error"], &cluster["results"][0]["result"]), (&1.into(), &"error".into()));
        assert!(cluster["summary"]["pass"].as_u64().unwrap() > 0, "{cluster:#}");
        let of = |outcome: &str| {
            let results = namespace["results"].as_array().unwrap();
            results.iter().find(|it| it["result"] == outcome).unwrap_or_else(|| panic!("no {outcome}: {namespace:#}"))
        };
        assert_eq!((&of("fail")["rule"], &of("fail")["severity"]), (&"LB001".into(), &"high".into()));
        assert_eq!((&of("fail")["scored"], &of("fail")["resources"][0]["name"]), (&true.into(), &"a".into()));
        assert_eq!(of("skip")["properties"]["reason"], "by hand");
        assert_eq!((&namespace["summary"]["fail"], &namespace["summary"]["skip"]), (&1.into(), &1.into()));
        // What was not judged does not pass.
        let thing = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: t, namespace: default}\nspec: {nodeName: worker-2}";
        let more: Value = serde_saphyr::from_str(&run(format, &format!("{thing}\n---\n{input}")).stdout).unwrap();
        let (before, after) = (&namespace["summary"], &more["items"][1]["summary"]);
        assert_eq!((&after["skip"], &after["pass"]), (&2.into(), &before["pass"]), "{more:#}");
    }
}

#[test]
fn workflow_commands_stay_commands() {
    let output = run("github", &hostile()).stdout;
    assert_eq!(output.lines().count(), 1, "{output}");
    assert!(output.starts_with("::error file=<stdin>,line="), "{output}");
    assert!(output.contains("title=LB001 A Pod"), "{output}");
    assert!(output.contains("a%250A::error::x"), "a percent sign is escaped: {output}");
}

#[test]
fn annotations_beyond_ten_are_summed_up() {
    let pods = |count: usize| {
        let pods = (0..count).map(|number| format!("---\n{}", stuck_pod(&format!("{{name: pod-{number}}}"))));
        format!("{FACTS}{}", pods.collect::<String>())
    };
    let commands = |output: &str| output.lines().filter(|line| line.starts_with("::")).count();
    let ten = run("github", &pods(10)).stdout;
    assert_eq!((commands(&ten), ten.lines().count()), (10, 10));
    let more = run("github", &pods(13)).stdout;
    assert_eq!((commands(&more), more.lines().count()), (10, 14));
    assert!(more.contains("title=4 more findings::4 x LB001"), "{more}");
    assert!(more.lines().last().unwrap().contains("pod-12") || more.contains("error LB001 <stdin>:"), "{more}");
}

#[test]
fn gitlab_gets_relative_paths_and_different_fingerprints() {
    let run = lint(&["-f", "./tests/lint/mixed", "-o", "gitlab"], "");
    let issues: Vec<Value> = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(issues.len(), 11);
    let prints: std::collections::HashSet<&str> =
        issues.iter().map(|issue| issue["fingerprint"].as_str().unwrap()).collect();
    assert_eq!(prints.len(), issues.len());
    for issue in &issues {
        assert!(issue["location"]["path"].as_str().unwrap().starts_with("tests/"), "{issue}");
        assert!(issue["location"]["lines"]["begin"].is_u64());
        assert!(["info", "minor", "major", "critical", "blocker"].contains(&issue["severity"].as_str().unwrap()));
    }
}
