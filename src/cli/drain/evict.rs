//! Evictions, each of the very Pod that was looked at.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::kubernetes::api::{ApiError, in_time};
use crate::model::{Pod, Text};
use crate::report::style::clean;

/// How often an eviction is tried again that a PodDisruptionBudget, or a webhook, does not let through yet: as kubectl drain does.
const AGAIN: Duration = Duration::from_secs(5);
/// What the API server says before the words of a webhook that refuses.
/// Source: `apiserver/pkg/admission/plugin/webhook/errors/statuserror.go`, `ToStatusErr`.
const BY_WEBHOOK: &str = "admission webhook ";
/// How often it is looked whether a Pod is gone.
pub const LOOK: Duration = Duration::from_secs(1);

/// A Pod that is to be evicted.
#[derive(Clone, Debug)]
pub struct Evicted {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl Evicted {
    pub fn new(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace().to_owned(),
            name: pod.display_name().to_owned(),
            uid: Text::or_empty(pod.metadata.uid.as_ref()),
        }
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The Pod is going, or gone.
    Accepted,
    /// Not now.
    Later,
    /// Not before somebody does something about it.
    Refused,
}

/// Evicts Pods until a moment.
pub struct Evictions {
    client: Client,
    end: Instant,
    /// What was said already about Pods that cannot go yet.
    said: BTreeSet<String>,
    /// Pods that a webhook refuses to let go.
    refused: usize,
}

impl Evictions {
    pub const fn new(client: Client, end: Instant) -> Self {
        Self { client, end, said: BTreeSet::new(), refused: 0 }
    }

    /// How many Pods a webhook refused to let go.
    pub const fn refused(&self) -> usize {
        self.refused
    }

    /// Evicts all of them but those that a webhook refuses to let go, and waits until they are gone; false when the time was up
    /// before.
    ///
    /// # Errors
    /// When the API server refuses for good, or cannot be reached.
    pub async fn all(&mut self, pods: &[Evicted]) -> anyhow::Result<bool> {
        let mut waiting: Vec<&Evicted> = pods.iter().collect();
        let mut going = Vec::new();
        while !waiting.is_empty() {
            let mut later = Vec::new();
            for pod in waiting {
                match self.one(pod).await? {
                    Attempt::Accepted => going.push(pod),
                    Attempt::Later => later.push(pod),
                    Attempt::Refused => {}
                }
            }
            waiting = later;
            if !waiting.is_empty() && !self.pause(AGAIN).await {
                return Ok(false);
            }
        }
        for pod in going {
            while self.is_there(pod).await? {
                if !self.pause(LOOK).await {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Waits; false when the time is up.
    pub async fn pause(&self, time: Duration) -> bool {
        sleep(time).await;
        Instant::now() < self.end
    }

    /// Waits as long as an eviction that is not let through has to; false when the time is up.
    pub async fn pause_for_budget(&self) -> bool {
        self.pause(AGAIN).await
    }

    /// Tries to evict one.
    ///
    /// # Errors
    /// As above.
    pub async fn one(&mut self, pod: &Evicted) -> anyhow::Result<Attempt> {
        let (name, namespace, eviction) = (clean(&pod.name), clean(&pod.namespace), eviction(pod));
        let (pods, params) = (self.pods(pod), PostParams::default());
        let asked = pods.create_subresource::<_, Value>("eviction", &pod.name, &params, &eviction);
        match in_time(asked).await {
            Ok(_) => {
                writeln!(anstream::stdout(), "pod/{name} -n {namespace} is evicted")?;
                Ok(Attempt::Accepted)
            }
            Err(error) if error.is_not_found() => Ok(Attempt::Accepted),
            // Another one of its name is there; or this one has changed while it was being evicted.
            Err(error) if error.is_conflict() => {
                Ok(if self.is_there(pod).await? { Attempt::Later } else { Attempt::Accepted })
            }
            Err(error) if error.code() == Some(429) => {
                let why = format!("pod/{name} -n {namespace} cannot go yet: {}", clean(&message(&error)));
                if self.said.insert(why.clone()) {
                    writeln!(anstream::stderr(), "{why}")?;
                }
                Ok(Attempt::Later)
            }
            // Who may not evict at all is told so by the API server itself.
            Err(error) if error.code() == Some(403) && message(&error).starts_with(BY_WEBHOOK) => {
                writeln!(anstream::stderr(), "pod/{name} -n {namespace} stays: {}", clean(&message(&error)))?;
                self.refused += 1;
                Ok(Attempt::Refused)
            }
            Err(error) => Err(anyhow::Error::from(error).context(format!("pod/{} -n {}", pod.name, pod.namespace))),
        }
    }

    async fn is_there(&self, pod: &Evicted) -> Result<bool, ApiError> {
        let found = in_time(self.pods(pod).get_metadata_opt(&pod.name)).await?;
        Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(pod.uid.as_str())))
    }

    fn pods(&self, pod: &Evicted) -> Api<v1::Pod> {
        Api::namespaced(self.client.clone(), &pod.namespace)
    }
}

/// What the server says, without what the client adds.
fn message(error: &ApiError) -> String {
    match error {
        ApiError::Kube(error) => match error.as_ref() {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

/// The eviction of this very Pod. kube's own `evict` writes the options under a key that API servers do not know, so that another
/// Pod of the same name would go.
fn eviction(pod: &Evicted) -> Eviction {
    let this_one = Preconditions { uid: Some(pod.uid.clone()), resource_version: None };
    Eviction {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions { preconditions: Some(this_one), ..DeleteOptions::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eviction_is_of_the_pod_that_was_looked_at() {
        let pod = Evicted { namespace: "db".to_owned(), name: "pg-0".to_owned(), uid: "u-1".to_owned() };
        let body = serde_json::to_value(eviction(&pod)).unwrap();
        assert_eq!((&body["apiVersion"], &body["kind"]), (&"policy/v1".into(), &"Eviction".into()));
        assert_eq!(body["deleteOptions"]["preconditions"]["uid"], "u-1", "under the key that the API server reads");
    }
}
