//! PinPolicies as the parameter holds them: pure.

use crate::crd::{ParameterException, ParameterNodes, ParameterPolicy, PinPolicy, Selector};
use crate::model::Labels;
use crate::policy::selects;

/// The policies as admission policies evaluate them, and the selectors of nodes that they ask about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policies {
    pub policies: Vec<ParameterPolicy>,
    selectors: Vec<Selector>,
}

impl Policies {
    /// Takes the policies in the order of their names. Exceptions stay whatever the time is: the expression compares it.
    pub fn new<'a>(found: impl Iterator<Item = &'a PinPolicy>) -> Self {
        let mut found: Vec<&PinPolicy> = found.collect();
        found.sort_by_key(|policy| policy.name());
        let mut all = Self::default();
        for policy in found {
            let nodes = policy.spec.allowed_nodes.as_ref().map(|nodes| ParameterNodes {
                names: nodes.names.clone().unwrap_or_default(),
                place: nodes.selector.as_ref().and_then(|selector| all.place(selector)),
            });
            all.policies.push(entry(policy, nodes));
        }
        all
    }

    /// The place of the selector; each stands once. There are no more than policies.
    fn place(&mut self, selector: &Selector) -> Option<i32> {
        let known = self.selectors.iter().position(|known| known == selector);
        let place = known.unwrap_or_else(|| {
            self.selectors.push(selector.clone());
            self.selectors.len() - 1
        });
        i32::try_from(place).ok()
    }

    /// True where both ask the same of nodes.
    pub fn ask_alike(&self, other: &Self) -> bool {
        self.selectors == other.selectors
    }

    /// For each selector 1 where a node of these labels has what it asks for, else 0; nothing where there is none.
    pub fn matches(&self, labels: &Labels) -> Option<String> {
        let letter = |selector| if selects(selector, labels) { '1' } else { '0' };
        (!self.selectors.is_empty()).then(|| self.selectors.iter().map(letter).collect())
    }
}

fn entry(policy: &PinPolicy, allowed_nodes: Option<ParameterNodes>) -> ParameterPolicy {
    let spec = &policy.spec;
    let exceptions = spec.exceptions.iter().map(|exception| ParameterException {
        expires_at: exception.expires_at.clone(),
        namespaces: exception.namespaces.clone(),
        requesters: exception.requesters.clone(),
    });
    ParameterPolicy {
        name: policy.name().to_owned(),
        mode: spec.mode,
        namespaces: spec.namespaces.clone(),
        object_selector: spec.object_selector.clone(),
        requesters: spec.requesters.clone(),
        of_classes: spec.storage_classes.is_some(),
        allowed_nodes,
        pin: spec.pin,
        allow_ignore: spec.allow_ignore,
        exceptions: exceptions.collect(),
    }
}
