//! Which proxy leads to an API server: decided as kubectl decides it.
//!
//! `proxy-url` of the kubeconfig's cluster counts always. Without it the environment does, by the rules of Go's
//! `httpproxy`: `HTTPS_PROXY` (for a server without TLS `HTTP_PROXY`), unless `NO_PROXY` names the server, and never for
//! this machine itself.

use std::net::IpAddr;

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::proxy::matcher::Matcher;

/// A proxy, and what it wants to know of whoever uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// CONNECT over HTTP, or over HTTPS where the address says so.
    Http {
        /// Where it listens.
        address: Uri,
        /// `Proxy-Authorization`.
        authorization: Option<HeaderValue>,
    },
    /// SOCKS version 5; it resolves the server's name.
    Socks5 {
        /// Where it listens.
        address: Uri,
        /// Name and password.
        account: Option<(String, String)>,
    },
}

/// A setting that names no proxy that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {value:?} is not the address of a proxy: write http://, https:// or socks5://, a host and a port")]
pub struct ProxyError {
    /// Where it was set: `proxy-url` or the name of a variable.
    pub setting: &'static str,
    /// What was set, without a password.
    pub value: String,
}

/// What the environment says of proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `HTTPS_PROXY` or `https_proxy`.
    pub https: Option<String>,
    /// `HTTP_PROXY` or `http_proxy`.
    pub http: Option<String>,
    /// `NO_PROXY` or `no_proxy`.
    pub no: String,
}

impl Environment {
    /// Reads it.
    #[must_use]
    pub fn of_process() -> Self {
        let first = |names: [&str; 2]| {
            names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.trim().is_empty())
        };
        Self {
            https: first(["HTTPS_PROXY", "https_proxy"]),
            http: first(["HTTP_PROXY", "http_proxy"]),
            no: first(["NO_PROXY", "no_proxy"]).unwrap_or_default(),
        }
    }
}

/// The proxy through which a server is reached; absent where it is reached directly.
///
/// # Errors
/// [`ProxyError`] when the setting that counts names no proxy.
pub fn proxy_for(
    server: &Uri,
    of_kubeconfig: Option<&str>,
    environment: &Environment,
) -> Result<Option<Proxy>, ProxyError> {
    if let Some(value) = of_kubeconfig.filter(|value| !value.trim().is_empty()) {
        return parse("proxy-url", value, server).map(Some);
    }
    let (setting, value) = match server.scheme_str() {
        Some("http") => ("HTTP_PROXY", &environment.http),
        _ => ("HTTPS_PROXY", &environment.https),
    };
    match value {
        Some(value) if !is_direct(server, &environment.no) => parse(setting, value, server).map(Some),
        _ => Ok(None),
    }
}

fn parse(setting: &'static str, value: &str, server: &Uri) -> Result<Proxy, ProxyError> {
    let value = value.trim();
    let refused = || ProxyError { setting, value: without_password(value) };
    let found = Matcher::builder().all(value).build().intercept(server).ok_or_else(refused)?;
    let address = found.uri().clone();
    match address.scheme_str() {
        Some("http" | "https") => Ok(Proxy::Http { address, authorization: found.basic_auth().cloned() }),
        Some("socks5" | "socks5h") => {
            let account = found.raw_auth().map(|(name, password)| (name.to_owned(), password.to_owned()));
            Ok(Proxy::Socks5 { address: with_port(&address, 1080), account })
        }
        _ => Err(refused()),
    }
}

fn without_password(value: &str) -> String {
    match value.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            if scheme.is_empty() { format!("...@{host}") } else { format!("{scheme}://...@{host}") }
        }
        None => value.to_owned(),
    }
}

/// An address that names its port.
pub(super) fn with_port(address: &Uri, port: u16) -> Uri {
    let (Some(host), None) = (address.host(), address.port()) else { return address.clone() };
    let mut parts = address.clone().into_parts();
    parts.authority = format!("{host}:{port}").parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| address.clone())
}

/// True when `NO_PROXY` names the server, or it is this machine.
fn is_direct(server: &Uri, no_proxy: &str) -> bool {
    let Some(host) = server.host() else { return false };
    let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let default = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let port = server.port_u16().unwrap_or(default);
    let address: Option<IpAddr> = host.parse().ok();
    if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    no_proxy.split(',').map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| covers(&entry, &host, address, port))
}

/// True when one entry of `NO_PROXY` is about the server: `*`, an address, a network, `name` (with what is beneath it) or
/// `.name` (only what is beneath it); an address or a name may carry a port.
fn covers(entry: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    if let Some((network, length)) = entry.split_once('/') {
        let network = network.parse::<IpAddr>().ok().zip(length.parse::<u32>().ok());
        return network.zip(address).is_some_and(|((network, length), address)| is_within(network, length, address));
    }
    let (name, wanted) = name_and_port(entry);
    if name.is_empty() || wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Ok(named) = name.parse::<IpAddr>() {
        return address == Some(named);
    }
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    match name.strip_prefix('.') {
        Some(above) => is_beneath(host, above),
        None => host == name || is_beneath(host, name),
    }
}

fn name_and_port(entry: &str) -> (&str, Option<u16>) {
    if entry.parse::<IpAddr>().is_ok() {
        return (entry, None);
    }
    match entry.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => (name.trim_matches(['[', ']']), port.parse().ok()),
        _ => (entry.trim_matches(['[', ']']), None),
    }
}

fn is_beneath(host: &str, above: &str) -> bool {
    host.strip_suffix(above).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
}

fn is_within(network: IpAddr, length: u32, address: IpAddr) -> bool {
    let shifted = |bits: u128, width: u32| bits.checked_shr(width.saturating_sub(length)).unwrap_or(0);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) if length <= 32 => {
            shifted(network.to_bits().into(), 32) == shifted(address.to_bits().into(), 32)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) if length <= 128 => {
            shifted(network.to_bits(), 128) == shifted(address.to_bits(), 128)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn is_used(server: &str, no_proxy: &str) -> bool {
        let environment =
            Environment { https: Some("http://proxy:3128".to_owned()), http: None, no: no_proxy.to_owned() };
        proxy_for(&uri(server), None, &environment).unwrap().is_some()
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        for (server, no_proxy) in [
            ("https://localhost:6443", ""),
            ("https://127.0.0.2:6443", ""),
            ("https://[::1]:6443", ""),
            ("https://api.example:6443", "*"),
            ("https://api.example:6443", "other, EXAMPLE "),
            ("https://API.example:6443", "api.example"),
            ("https://api.example:6443", "api.example:6443"),
            ("https://api.example", "api.example:443"),
            ("https://api.example:6443", ".example"),
            ("https://api.example:6443", "*.example"),
            ("https://10.1.2.3:6443", "10.0.0.0/8"),
            ("https://10.1.2.3:6443", "0.0.0.0/0"),
            ("https://10.1.2.3:6443", "10.1.2.3"),
            ("https://10.1.2.3:6443", "10.1.2.3:6443"),
            ("https://[fd00::7]:6443", "fd00::/8"),
            ("https://[fd00::7]:6443", "fd00::7"),
            ("https://[fd00::7]:6443", "[fd00::7]:6443"),
        ] {
            assert!(!is_used(server, no_proxy), "{server} {no_proxy}");
        }
        for (server, no_proxy) in [
            ("https://api.example:6443", ""),
            ("https://api.example:6443", ",, ,"),
            ("https://api.example:6443", "api.example:443"),
            ("https://example:6443", ".example"),
            ("https://notexample:6443", "example"),
            ("https://api.example:6443", "pi.example"),
            ("https://11.1.2.3:6443", "10.0.0.0/8"),
            ("https://10.1.2.3:6443", "fd00::/8"),
            ("https://10.1.2.3:6443", "10.0.0.0/33"),
            ("https://10.1.2.3:6443", "10.1.2"),
            ("https://[fd00::7]:6443", "fd00::8"),
        ] {
            assert!(is_used(server, no_proxy), "{server} {no_proxy}");
        }
    }

    #[test]
    fn the_kubeconfig_counts_before_the_environment_and_whatever_no_proxy_says() {
        let environment =
            Environment { https: Some("http://other:1".to_owned()), no: "*".to_owned(), ..Environment::default() };
        let found = proxy_for(&uri("https://127.0.0.1:6443"), Some("http://proxy:3128"), &environment).unwrap();
        let Some(Proxy::Http { address, authorization: None }) = found else { panic!("{found:?}") };
        assert_eq!(address.authority().unwrap(), "proxy:3128");
        assert_eq!(proxy_for(&uri("https://127.0.0.1:6443"), Some(" "), &environment), Ok(None));
    }

    #[test]
    fn the_variable_goes_by_the_server_s_scheme() {
        let environment = Environment { https: None, http: Some("proxy:3128".to_owned()), no: String::new() };
        assert_eq!(proxy_for(&uri("https://api.example"), None, &environment), Ok(None));
        let found = proxy_for(&uri("http://api.example"), None, &environment).unwrap();
        assert!(matches!(found, Some(Proxy::Http { address, .. }) if address.port_u16() == Some(3128)));
    }

    #[test]
    fn accounts_are_used_and_never_told() {
        let server = uri("https://api.example");
        let of = |value: &str| proxy_for(&server, Some(value), &Environment::default());
        let Ok(Some(Proxy::Http { authorization: Some(header), .. })) = of("http://me:p%40ss@proxy:3128") else {
            panic!()
        };
        assert_eq!(header, "Basic bWU6cEBzcw==");
        let Ok(Some(Proxy::Socks5 { account, address })) = of("socks5://me:secret@proxy") else { panic!() };
        assert_eq!((account, address.port_u16()), (Some(("me".to_owned(), "secret".to_owned())), Some(1080)));
        for wrong in ["ftp://me:secret@proxy:21", "http://", "socks4://me:secret@proxy:1"] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.starts_with("proxy-url: ") && !error.contains("secret"), "{error}");
        }
    }
}
