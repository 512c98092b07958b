//! What the API server refuses of a PinPolicy, for policies that no API server has seen.

use serde_json::Value;

use super::pin_policy::{
    AllowedNodes, NamespacesOf, Operator, PinPolicySpec, PolicyException, PolicyMode, RequestersOf, Selector,
};

/// Why a policy would be refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PolicyFault {
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

type Checked = Result<(), PolicyFault>;

fn fault(field: &str, message: &str) -> PolicyFault {
    PolicyFault { field: field.to_owned(), message: message.to_owned() }
}

fn holds(is_so: bool, field: &str, message: &str) -> Checked {
    if is_so { Ok(()) } else { Err(fault(field, message)) }
}

/// A list and its items within their bounds, in characters, as the API server counts.
fn list(found: Option<&Vec<String>>, field: &str, items: (usize, usize), chars: (usize, usize)) -> Checked {
    let Some(found) = found else { return Ok(()) };
    let ((least, most), (shortest, longest)) = (items, chars);
    let within = (least..=most).contains(&found.len());
    holds(within, field, &format!("has {} items, not {least} to {most}", found.len()))?;
    let fits = |text: &String| (shortest..=longest).contains(&text.chars().count());
    holds(found.iter().all(fits), field, &format!("an item has not {shortest} to {longest} characters"))
}

impl PinPolicySpec {
    /// Checks what the schema of the definition and its rules check. `written` is the `spec` as it was written, in which a
    /// field that there is not would otherwise be passed over.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self, written: &Value) -> Checked {
        let known = serde_json::to_value(self).map_err(|error| fault("spec", &error.to_string()))?;
        unknown_field(written, &known, "spec")?;
        let only_rewrite = self.pin.is_none() || self.mode == PolicyMode::Rewrite;
        holds(only_rewrite, "spec.pin", "`pin` says how a Pod is rewritten: give it with mode Rewrite only")?;
        self.namespaces.as_ref().map_or(Ok(()), NamespacesOf::check)?;
        selector(self.object_selector.as_ref(), "spec.objectSelector")?;
        list(self.storage_classes.as_ref(), "spec.storageClasses", (1, 64), (1, 253))?;
        self.requesters.as_ref().map_or(Ok(()), |requesters| requesters.check("spec.requesters"))?;
        self.allowed_nodes.as_ref().map_or(Ok(()), AllowedNodes::check)?;
        let few = self.exceptions.len() <= 32;
        holds(few, "spec.exceptions", &format!("has {} items, more than 32", self.exceptions.len()))?;
        let mut all = self.exceptions.iter().enumerate();
        all.try_for_each(|(place, exception)| exception.check(&format!("spec.exceptions[{place}]")))
    }
}

impl NamespacesOf {
    fn check(&self) -> Checked {
        let given = self.names.is_some() || self.selector.is_some();
        holds(given, "spec.namespaces", "give `names` or a `selector`")?;
        list(self.names.as_ref(), "spec.namespaces.names", (1, 256), (1, 63))?;
        selector(self.selector.as_ref(), "spec.namespaces.selector")
    }
}

impl AllowedNodes {
    fn check(&self) -> Checked {
        let given = self.names.is_some() || self.selector.is_some();
        let message = "give `names` or a `selector`; an empty list of names allows no node";
        holds(given, "spec.allowedNodes", message)?;
        list(self.names.as_ref(), "spec.allowedNodes.names", (0, 256), (1, 253))?;
        selector(self.selector.as_ref(), "spec.allowedNodes.selector")
    }
}

impl RequestersOf {
    fn check(&self, field: &str) -> Checked {
        let given = self.users.is_some() || self.groups.is_some() || self.service_accounts.is_some();
        holds(given, field, "give `users`, `groups` or `serviceAccounts`")?;
        list(self.users.as_ref(), &format!("{field}.users"), (1, 16), (1, 253))?;
        list(self.groups.as_ref(), &format!("{field}.groups"), (1, 16), (1, 253))?;
        let accounts = format!("{field}.serviceAccounts");
        list(self.service_accounts.as_ref(), &accounts, (1, 16), (3, 317))?;
        let all = self.service_accounts.iter().flatten();
        holds(all.into_iter().all(|text| is_account(text)), &accounts, "a service account is written namespace/name")
    }
}

fn is_account(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |part: &str| part.bytes().next().is_some_and(plain) && part.bytes().last().is_some_and(plain);
    text.split_once('/').is_some_and(|(namespace, name)| {
        ends(namespace)
            && ends(name)
            && namespace.bytes().all(|byte| plain(byte) || byte == b'-')
            && name.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
    })
}

impl PolicyException {
    fn check(&self, field: &str) -> Checked {
        let reason = format!("{field}.reason");
        let length = self.reason.chars().count();
        holds((1..=512).contains(&length), &reason, "has not 1 to 512 characters")?;
        let is_text = !self.reason.chars().any(char::is_control) && !self.reason.trim().is_empty();
        holds(is_text, &reason, "is no text, or has control characters")?;
        let given = self.namespaces.is_some() || self.requesters.is_some();
        holds(given, field, "say for whom: give `namespaces` or `requesters`")?;
        list(self.namespaces.as_ref(), &format!("{field}.namespaces"), (1, 32), (1, 63))?;
        self.requesters.as_ref().map_or(Ok(()), |requesters| requesters.check(&format!("{field}.requesters")))
    }
}

fn selector(found: Option<&Selector>, field: &str) -> Checked {
    let Some(found) = found else { return Ok(()) };
    let few = found.match_labels.as_ref().map_or(0, std::collections::BTreeMap::len) <= 32;
    holds(few, &format!("{field}.matchLabels"), "has more than 32 items")?;
    let field = format!("{field}.matchExpressions");
    let all = found.match_expressions.as_deref().unwrap_or_default();
    holds(all.len() <= 32, &field, "has more than 32 items")?;
    for wanted in all {
        holds((1..=317).contains(&wanted.key.chars().count()), &field, "a key has not 1 to 317 characters")?;
        list(wanted.values.as_ref(), &field, (0, 16), (0, 63))?;
        let takes_values = matches!(wanted.operator, Operator::In | Operator::NotIn);
        let has_values = wanted.values.as_ref().is_some_and(|values| !values.is_empty());
        let message = "In and NotIn take values, Exists and DoesNotExist take none";
        holds(takes_values == has_values, &field, message)?;
    }
    Ok(())
}

/// A field of what was written that what was read does not have.
fn unknown_field(written: &Value, known: &Value, at: &str) -> Checked {
    match (written, known) {
        (Value::Object(written), Value::Object(known)) => {
            for (key, value) in written.iter().filter(|(_, value)| !value.is_null()) {
                let at = format!("{at}.{key}");
                match known.get(key) {
                    Some(known) => unknown_field(value, known, &at)?,
                    // An empty list is left out where it is the same as none.
                    None if *value == Value::Array(Vec::new()) && key == "exceptions" => {}
                    None => return Err(fault(&at, "there is no such field")),
                }
            }
            Ok(())
        }
        (Value::Array(written), Value::Array(known)) => written
            .iter()
            .zip(known)
            .enumerate()
            .try_for_each(|(place, (written, known))| unknown_field(written, known, &format!("{at}[{place}]"))),
        _ => Ok(()),
    }
}
