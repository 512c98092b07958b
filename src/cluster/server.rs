//! Facts of a running cluster, read once: for commands that look and end.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use tokio::time::timeout;

use super::Fact;
use crate::model::{
    Claim, Class, CsiDriver, CsiNode, Guarded, Modelled, Namespace, Node, StorageCapacity, Volume, Wire,
};

/// Objects of one answer, as kubectl asks for.
const PAGE: u32 = 500;
/// One answer may take this long: a page of large Nodes over a slow line does not take a tenth of it.
const CALL: Duration = Duration::from_secs(15);
/// Pages of one kind: 5 million objects. A server that never says that it is done is not followed for ever.
const MOST_PAGES: usize = 10_000;

/// Why a cluster's facts could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The API server refuses.
    #[error(
        "the cluster refuses to list {kind}: {message}\nAsk for the right to list {kind}, or give facts as files with \
         --objects instead of --server"
    )]
    Refused {
        /// Plural of the kind.
        kind: String,
        /// What the API server said.
        message: String,
    },
    /// No answer.
    #[error("the cluster cannot be reached ({kind}): {message}")]
    Unreachable {
        /// Plural of the kind.
        kind: String,
        /// Why.
        message: String,
    },
    /// The API server did not answer in time.
    #[error("the cluster did not answer in {} s ({kind})", CALL.as_secs())]
    Slow {
        /// Plural of the kind.
        kind: String,
    },
}

/// What was read.
#[derive(Debug, Default)]
pub struct ServerFacts {
    /// Every Node, volume, class and CSI object, and the claims of the namespaces that were asked for.
    pub facts: Vec<Fact>,
    /// Objects that could not be read and count as absent, each with what is wrong with it.
    pub malformed: Vec<String>,
}

impl ServerFacts {
    /// Reads everything that decisions about Pods of these namespaces need.
    ///
    /// # Errors
    /// When the cluster cannot be asked for one of the kinds: half of the facts would lead to wrong decisions.
    pub async fn read(client: &Client, namespaces: &BTreeSet<String>) -> Result<Self, ServerError> {
        let mut read = Self::default();
        read.list(&Api::<Guarded<Node>>::all(client.clone()), Fact::Node).await?;
        read.list(&Api::<Guarded<Volume>>::all(client.clone()), Fact::Volume).await?;
        read.list(&Api::<Guarded<Class>>::all(client.clone()), Fact::Class).await?;
        read.list(&Api::<Guarded<CsiDriver>>::all(client.clone()), Fact::CsiDriver).await?;
        read.list(&Api::<Guarded<CsiNode>>::all(client.clone()), Fact::CsiNode).await?;
        let capacities: Api<Guarded<StorageCapacity>> = Api::all(client.clone());
        read.list(&capacities, Fact::StorageCapacity).await?;
        for name in namespaces {
            let claims: Api<Guarded<Claim>> = Api::namespaced(client.clone(), name);
            read.list(&claims, Fact::Claim).await?;
            read.namespace(client, name).await?;
        }
        Ok(read)
    }

    async fn list<K: Modelled>(&mut self, api: &Api<Guarded<K>>, fact: fn(K) -> Fact) -> Result<(), ServerError> {
        let kind = K::Kind::plural(&()).into_owned();
        let mut params = ListParams::default().limit(PAGE);
        let (before, mut pages) = (self.facts.len(), 0);
        loop {
            let answer = timeout(CALL, api.list(&params)).await;
            let answer = match answer.map_err(|_| ServerError::Slow { kind: kind.clone() })? {
                // The server has forgotten the list in the middle of it. All at once, then, as client-go does.
                Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                    self.facts.truncate(before);
                    params = ListParams::default();
                    continue;
                }
                answer => answer.map_err(|error| ServerError::of(&kind, &error))?,
            };
            for item in answer.items {
                let name = item.name_any();
                match item.object {
                    Ok(object) => self.facts.push(fact(object)),
                    Err(error) => self.malformed.push(format!("{kind} {name}: {error}")),
                }
            }
            pages += 1;
            match answer.metadata.continue_ {
                Some(token) if !token.is_empty() && pages < MOST_PAGES => params.continue_token = Some(token),
                _ => return Ok(()),
            }
        }
    }

    /// Its annotations say how Pods of it may be pinned. One that does not exist yet has none.
    async fn namespace(&mut self, client: &Client, name: &str) -> Result<(), ServerError> {
        let kind = "namespaces";
        let api: Api<Wire<Namespace>> = Api::all(client.clone());
        let found = timeout(CALL, api.get_opt(name)).await;
        let found = found.map_err(|_| ServerError::Slow { kind: kind.to_owned() })?;
        let found = found.map_err(|error| ServerError::of(kind, &error))?;
        self.facts.extend(found.map(|namespace| Fact::Namespace(namespace.object)));
        Ok(())
    }
}

impl ServerError {
    fn of(kind: &str, error: &kube::Error) -> Self {
        let kind = kind.to_owned();
        match error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Self::Refused { kind, message: status.message.clone() }
            }
            error => Self::Unreachable { kind, message: whole(error) },
        }
    }
}

/// An error with what caused it: `client error (Connect)` alone helps nobody.
fn whole(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    let mut texts: Vec<String> = Vec::new();
    for cause in causes {
        // Some errors repeat their cause in their own text.
        if texts.last().is_none_or(|last| !last.contains(&cause)) {
            texts.push(cause);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A client of a server that answers by path and query.
    fn client(answer: impl Fn(&str, &str) -> (u16, Value) + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (status, answer) = answer(request.uri().path(), request.uri().query().unwrap_or_default());
            let response = Response::builder().status(status).body(Body::from(answer.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(response.unwrap()) }
        });
        Client::new(service, "default")
    }

    fn list(items: &[&str], token: &str) -> (u16, Value) {
        let items: Vec<Value> = items.iter().map(|name| json!({"metadata": {"name": name}})).collect();
        (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"continue": token}, "items": items}))
    }

    fn failure(code: u16, message: &str) -> (u16, Value) {
        (
            code,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "a"}),
        )
    }

    fn names(read: &ServerFacts) -> Vec<&str> {
        read.facts.iter().map(|fact| fact.key().2).collect()
    }

    #[tokio::test]
    async fn a_list_that_expires_in_the_middle_is_read_again_and_nothing_counts_twice() {
        let server = client(|path, query| match path {
            "/api/v1/nodes" if query.contains("continue=more") => failure(410, "too old"),
            "/api/v1/nodes" if query.contains("limit=500") => list(&["a", "b"], "more"),
            "/api/v1/nodes" => list(&["a", "b", "c"], ""),
            _ => list(&[], ""),
        });
        let read = ServerFacts::read(&server, &BTreeSet::new()).await.unwrap();
        assert_eq!(names(&read), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn pages_are_followed_and_objects_that_cannot_be_read_are_named() {
        let server = client(|path, query| match path {
            "/api/v1/persistentvolumes" if query.contains("continue=more") => list(&["second"], ""),
            "/api/v1/persistentvolumes" => list(&["first"], "more"),
            "/apis/storage.k8s.io/v1/storageclasses" => (
                200,
                json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [
                    {"metadata": {"name": "odd"}, "provisioner": 7}, {"metadata": {"name": "good"}, "provisioner": "a"}]}),
            ),
            _ => list(&[], ""),
        });
        let read = ServerFacts::read(&server, &BTreeSet::new()).await.unwrap();
        assert_eq!(names(&read), ["first", "second", "good"]);
        assert!(read.malformed.len() == 1 && read.malformed[0].contains("odd"), "{:?}", read.malformed);
    }

    #[tokio::test]
    async fn a_refusal_says_what_to_ask_for() {
        let server = client(|path, _| match path {
            "/apis/storage.k8s.io/v1/storageclasses" => failure(403, "storageclasses is forbidden"),
            _ => list(&[], ""),
        });
        let error = ServerFacts::read(&server, &BTreeSet::new()).await.unwrap_err().to_string();
        assert!(error.contains("right to list storageclasses") && error.contains("--objects"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up() {
        let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let read = ServerFacts::read(&Client::new(silent, "default"), &BTreeSet::new()).await;
        assert!(matches!(read, Err(ServerError::Slow { kind }) if kind == "nodes"));
    }
}
