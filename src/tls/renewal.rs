//! What to do next about an authority and a server certificate that are stored: pure, one step at a time.
//!
//! A new authority is announced before it signs anything: its certificate stands beside the old one in `caBundle` for a
//! while, then it takes over and signs a server certificate, and later the old one goes. So at every moment the API
//! server trusts whatever certificate a replica of the webhook may still hold.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{Authority, AuthorityError, Certificate, PemPair};

/// What is stored, and when something was done about it, in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// The authority that signs.
    pub current: Option<PemPair>,
    /// The one that will.
    pub next: Option<PemPair>,
    /// Since when `caBundle` holds it.
    pub next_published: Option<i64>,
    /// Certificate of the one that did.
    pub previous: Option<String>,
    /// Since when it does no more.
    pub promoted: Option<i64>,
    /// The server certificate.
    pub leaf: Option<PemPair>,
    /// Whether somebody has asked for a new authority.
    pub ordered: bool,
}

/// For how long things last.
#[derive(Clone, Debug)]
pub struct Lifetimes {
    /// DNS names of the server; the first one is what the API server asks for.
    pub names: Vec<String>,
    /// Life of an authority.
    pub authority_life: Duration,
    /// Life of a server certificate.
    pub leaf_life: Duration,
    /// From the publication of an authority until it signs: every API server must have seen it.
    pub settle: Duration,
    /// From then until the old one goes: every replica must serve with the new certificate.
    pub overlap: Duration,
}

/// Terms that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// A server certificate must fit into the last third of its authority's life.
    #[error("the authority must live at least three times as long as a server certificate")]
    ShortAuthority,
    /// Renewal begins when a third is left, and needs time.
    #[error("certificates must live for 6 s at least")]
    ShortLeaf,
    /// There is no name.
    #[error("a server certificate needs a name")]
    NoName,
}

impl Lifetimes {
    /// Says whether they can be kept.
    ///
    /// # Errors
    /// When they cannot.
    pub fn check(&self) -> Result<(), TermsError> {
        if self.names.is_empty() {
            return Err(TermsError::NoName);
        }
        if self.leaf_life < Duration::seconds(6) {
            return Err(TermsError::ShortLeaf);
        }
        if self.authority_life < self.leaf_life * 3 {
            return Err(TermsError::ShortAuthority);
        }
        Ok(())
    }
}

/// One change of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no authority that could sign: make one.
    Found,
    /// Make the next authority.
    Announce,
    /// Note that the next authority has been published.
    Published,
    /// Let the next authority sign from now on.
    Promote,
    /// Forget the previous authority.
    Retire,
    /// Issue a server certificate.
    Issue,
}

/// The dates and identifiers of a certificate.
struct Parsed {
    begins: i64,
    expires: i64,
    subject_key: Option<Vec<u8>>,
    authority_key: Option<Vec<u8>>,
    names: Vec<String>,
}

fn parse(pem: &str) -> Option<Parsed> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
    let (mut subject_key, mut authority_key) = (None, None);
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject_key = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority_key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let names = alternatives.map(|alternatives| {
        let names = alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        names.collect()
    });
    let (begins, expires) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    Some(Parsed { begins, expires, subject_key, authority_key, names: names.unwrap_or_default() })
}

impl Parsed {
    const fn is_due(&self, now: i64) -> bool {
        self.expires - now <= (self.expires - self.begins) / 3
    }

    const fn is_over(&self, now: i64) -> bool {
        self.expires <= now
    }

    /// True before its life begins, as when it was made by a clock that was ahead and has been put right.
    const fn is_early(&self, now: i64) -> bool {
        now < self.begins
    }
}

impl Material {
    /// What `caBundle` must hold: every authority of which a certificate may be in use, or will be.
    #[must_use]
    pub fn bundle(&self, now: OffsetDateTime) -> String {
        let now = now.unix_timestamp();
        let pairs = [&self.current, &self.next].into_iter().flatten().map(|pair| pair.chain.as_str());
        let all = pairs.chain(self.previous.as_deref());
        all.filter(|pem| parse(pem).is_some_and(|parsed| !parsed.is_over(now))).collect()
    }

    /// When the authority that signs ends, in seconds since 1970.
    #[must_use]
    pub fn authority_expires(&self) -> Option<i64> {
        Some(parse(&self.current.as_ref()?.chain)?.expires)
    }

    /// When the server certificate begins and ends, in seconds since 1970.
    #[must_use]
    pub fn leaf_life(&self) -> Option<(i64, i64)> {
        let parsed = parse(&self.leaf.as_ref()?.chain)?;
        Some((parsed.begins, parsed.expires))
    }

    /// The step that is due, if any. `published` says whether every `caBundle` holds [`Self::bundle`].
    #[must_use]
    pub fn next_step(&self, published: bool, terms: &Lifetimes, now: OffsetDateTime) -> Option<Step> {
        let now = now.unix_timestamp();
        let usable = |pair: &Option<PemPair>| {
            let pair = pair.as_ref()?;
            let parsed = parse(&pair.chain).filter(|parsed| !parsed.is_over(now) && !parsed.is_early(now))?;
            Authority::from_pem(&pair.chain, &pair.key, &terms.names).is_ok().then_some(parsed)
        };
        let Some(current) = usable(&self.current) else { return Some(Step::Found) };
        if !self.leaf_serves(&current, terms, now) {
            return Some(Step::Issue);
        }
        match usable(&self.next) {
            Some(_) => match self.next_published {
                None if published => return Some(Step::Published),
                Some(since) if published && now - since >= terms.settle.whole_seconds() => return Some(Step::Promote),
                _ => {}
            },
            None if current.is_due(now) || self.ordered || self.next.is_some() => return Some(Step::Announce),
            None => {}
        }
        let retired = self.promoted.is_none_or(|since| now - since >= terms.overlap.whole_seconds());
        (self.previous.is_some() && retired).then_some(Step::Retire)
    }

    fn leaf_serves(&self, authority: &Parsed, terms: &Lifetimes, now: i64) -> bool {
        let Some(pair) = &self.leaf else { return false };
        if Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes()).is_err() {
            return false;
        }
        let Some(leaf) = parse(&pair.chain) else { return false };
        let mut wanted = terms.names.clone();
        let mut names = leaf.names.clone();
        wanted.sort_unstable();
        names.sort_unstable();
        let signed = leaf.authority_key.is_some() && leaf.authority_key == authority.subject_key;
        signed && names == wanted && !leaf.is_due(now) && !leaf.is_early(now)
    }

    /// What is stored after a step.
    ///
    /// # Errors
    /// When no key can be made, or the authority cannot sign.
    pub fn after(mut self, step: Step, terms: &Lifetimes, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let make = || -> Result<PemPair, AuthorityError> {
            let authority = Authority::with_life(&terms.names, terms.authority_life, now)?;
            Ok(PemPair { chain: authority.pem().to_owned(), key: authority.key_pem() })
        };
        match step {
            Step::Found => self = Self { current: Some(make()?), ..Self::default() },
            Step::Announce => {
                (self.next, self.next_published, self.ordered) = (Some(make()?), None, false);
            }
            Step::Published => self.next_published = Some(now.unix_timestamp()),
            Step::Promote => {
                self.previous = self.current.take().map(|pair| pair.chain);
                self.current = self.next.take();
                (self.next_published, self.promoted) = (None, Some(now.unix_timestamp()));
            }
            Step::Retire => (self.previous, self.promoted) = (None, None),
            Step::Issue => {
                if let Some(pair) = &self.current {
                    let authority = Authority::from_pem(&pair.chain, &pair.key, &terms.names)?;
                    let latest = self.authority_expires().unwrap_or_default();
                    let latest = OffsetDateTime::from_unix_timestamp(latest).unwrap_or(now);
                    self.leaf = Some(authority.issue_pem(terms.leaf_life, latest, now)?);
                }
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

    fn terms() -> Lifetimes {
        Lifetimes {
            names: vec!["latebind-webhook.latebind-system.svc".to_owned()],
            authority_life: Duration::days(365),
            leaf_life: Duration::days(90),
            settle: Duration::seconds(30),
            overlap: Duration::hours(1),
        }
    }

    /// Takes steps until none is due; everything that is written counts as published at once.
    fn settle(mut material: Material, now: OffsetDateTime) -> (Material, Vec<Step>) {
        let mut steps = Vec::new();
        while let Some(step) = material.next_step(true, &terms(), now) {
            material = material.after(step, &terms(), now).unwrap();
            steps.push(step);
            assert!(steps.len() < 8, "{steps:?} does not end");
        }
        (material, steps)
    }

    #[test]
    fn from_nothing_comes_an_authority_and_a_certificate() {
        let (material, steps) = settle(Material::default(), NOW);
        assert_eq!(steps, [Step::Found, Step::Issue]);
        assert_eq!(material.bundle(NOW).matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(settle(material, NOW + Duration::days(59)).1, []);
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_is_left_or_its_name_or_key_is_wrong() {
        let (material, _) = settle(Material::default(), NOW);
        assert_eq!(settle(material.clone(), NOW + Duration::days(61)).1, [Step::Issue]);
        let (other, _) = settle(Material::default(), NOW);
        let mixed = Material { leaf: other.leaf.clone(), ..material.clone() };
        assert_eq!(mixed.next_step(true, &terms(), NOW), Some(Step::Issue), "another authority's");
        let named = Lifetimes { names: vec!["other.svc".to_owned()], ..terms() };
        assert_eq!(material.next_step(true, &named, NOW), Some(Step::Issue));
        let broken = Material { leaf: Some(PemPair { key: String::new(), ..other.leaf.unwrap() }), ..material };
        assert_eq!(broken.next_step(true, &terms(), NOW), Some(Step::Issue));
    }

    #[test]
    fn a_new_authority_signs_only_after_it_was_published_and_the_old_one_stays_for_a_while() {
        let (mut material, _) = settle(Material::default(), NOW);
        material.ordered = true;
        let old = material.current.clone().unwrap().chain;
        assert_eq!(material.next_step(true, &terms(), NOW), Some(Step::Announce));
        let material = material.after(Step::Announce, &terms(), NOW).unwrap();
        assert!(!material.ordered);
        let bundle = material.bundle(NOW);
        assert!(bundle.contains(&old) && bundle.matches("BEGIN CERTIFICATE").count() == 2);
        assert_eq!(material.next_step(false, &terms(), NOW), None, "waits until it is published");
        let (material, steps) = settle(material, NOW);
        assert_eq!(steps, [Step::Published]);
        assert_eq!(settle(material.clone(), NOW + Duration::seconds(29)).1, []);
        assert_eq!(material.next_step(false, &terms(), NOW + Duration::seconds(31)), None, "somebody has taken it out");
        let now = NOW + Duration::seconds(31);
        let before = material.leaf.clone();
        let (material, steps) = settle(material, now);
        assert_eq!(steps, [Step::Promote, Step::Issue]);
        assert_ne!(material.leaf, before);
        assert!(material.bundle(now).contains(&old), "replicas may still serve with the old certificate");
        let (material, steps) = settle(material, now + Duration::hours(1));
        assert_eq!(steps, [Step::Retire]);
        assert!(!material.bundle(now).contains(&old));
    }

    #[test]
    fn an_authority_is_replaced_before_it_ends_and_found_anew_after() {
        let (material, _) = settle(Material::default(), NOW);
        let steps = settle(material.clone(), NOW + Duration::days(250)).1;
        assert_eq!(steps, [Step::Issue, Step::Announce, Step::Published]);
        assert_eq!(settle(material, NOW + Duration::days(366)).1, [Step::Found, Step::Issue]);
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_made_is_made_anew() {
        let ahead = NOW + Duration::days(3 * 365);
        let (material, _) = settle(Material::default(), ahead);
        let (material, steps) = settle(material, NOW);
        assert_eq!(steps, [Step::Found, Step::Issue]);
        assert!(material.leaf_life().is_some_and(|(begins, _)| begins <= NOW.unix_timestamp()));
        assert_eq!(settle(material.clone(), NOW + Duration::days(1)).1, []);
        // Only the server certificate is early: the authority was made by the right clock.
        let early = material.after(Step::Issue, &terms(), NOW + Duration::days(20)).unwrap();
        assert_eq!(settle(early, NOW).1, [Step::Issue]);
        // The next authority is early: it never signs, and another takes its place.
        let (mut ordered, _) = settle(Material::default(), NOW);
        ordered.ordered = true;
        let ordered = ordered.after(Step::Announce, &terms(), ahead).unwrap();
        assert_eq!(settle(ordered, NOW).1, [Step::Announce, Step::Published]);
    }

    #[test]
    fn what_cannot_be_read_is_made_anew() {
        let (mut material, _) = settle(Material::default(), NOW);
        material.current.as_mut().unwrap().key = "nonsense".to_owned();
        assert_eq!(settle(material, NOW).1, [Step::Found, Step::Issue]);
    }

    #[test]
    fn terms_that_cannot_be_kept_are_refused() {
        assert_eq!(terms().check(), Ok(()));
        assert_eq!(Lifetimes { names: Vec::new(), ..terms() }.check(), Err(TermsError::NoName));
        assert_eq!(
            Lifetimes { authority_life: Duration::days(91), ..terms() }.check(),
            Err(TermsError::ShortAuthority)
        );
        assert_eq!(Lifetimes { leaf_life: Duration::seconds(1), ..terms() }.check(), Err(TermsError::ShortLeaf));
    }
}
