//! What the entries of one directory are, and which of them the rules of pools offer.

use glob::Pattern;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;
use rustix::fs::Dir;

use super::duplicates::mark_duplicates;
use super::entry::Found;
use super::fault::{DiskFault, Property, failed};
use super::in_use::{refuse_busy, refuse_data, refuse_used};
use super::scope::{Directory, DiskScope};
use super::sysfs::BlockDevice;
use crate::crd::{DiskIdentity, DiskKind, DiskReport, DiskRule, SameDisk, VolumeMode};
use crate::model::Quantity;

/// A rule of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// The pool's name.
    pub pool: &'a str,
    /// The rule.
    pub rule: &'a DiskRule,
}

/// Looks at the entries of a directory, for all rules that name it. An entry that no rule is about is passed over; of each
/// other, every rule that is about it gets a report. Nothing that could not be read permits to offer a disk.
#[must_use]
pub fn look(scope: &DiskScope, directory: &str, rules: &[Rule<'_>]) -> Vec<DiskReport> {
    let mut reports = Vec::new();
    let mut filters = Vec::new();
    for rule in rules {
        match Filter::of(*rule) {
            Ok(filter) => filters.push(filter),
            Err(fault) => reports.push(rule.refused(directory, &fault)),
        }
    }
    match Directory::open(scope, directory).and_then(|opened| Ok((names(&opened)?, opened))) {
        Ok((names, opened)) => {
            for name in names {
                reports.extend(of_entry(scope, &opened, &name, &filters));
            }
        }
        Err(fault) => reports.extend(filters.iter().map(|filter| filter.rule.refused(directory, &fault))),
    }
    mark_duplicates(&mut reports);
    reports
}

/// A name, or the bytes of one that is none.
type Name = Result<String, Vec<u8>>;

/// The names of the entries, sorted.
fn names(directory: &Directory) -> Result<Vec<Name>, DiskFault> {
    let shown = directory.path.to_string_lossy();
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory.fd).map_err(failed("read", &shown))? {
        let name = entry.map_err(failed("read", &shown))?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(String::from_utf8(name).map_err(std::string::FromUtf8Error::into_bytes));
        }
    }
    names.sort_by(|one, two| bytes(one).cmp(bytes(two)));
    Ok(names)
}

fn bytes(name: &Name) -> &[u8] {
    name.as_ref().map_or_else(Vec::as_slice, String::as_bytes)
}

fn of_entry(scope: &DiskScope, directory: &Directory, name: &Name, filters: &[Filter<'_>]) -> Vec<DiskReport> {
    let name = match name {
        Ok(name) => name,
        Err(bytes) => {
            let shown = String::from_utf8_lossy(bytes);
            let path = directory.entry(&shown);
            let fault = DiskFault::BadName { path: path.clone() };
            let first = filters.iter().find(|filter| filter.names(&shown));
            return first.map(|filter| filter.rule.refused(&path, &fault)).into_iter().collect();
        }
    };
    let concerned: Vec<&Filter<'_>> = filters.iter().filter(|filter| filter.names(name)).collect();
    if concerned.is_empty() {
        return Vec::new();
    }
    let path = directory.entry(name);
    match Found::look(scope, directory, name) {
        Ok(found) => concerned.into_iter().filter_map(|filter| filter.judge(scope, &found)).collect(),
        Err(fault) => concerned.into_iter().map(|filter| filter.rule.refused(&path, &fault)).collect(),
    }
}

impl Rule<'_> {
    fn refused(&self, path: &str, fault: &DiskFault) -> DiskReport {
        self.signed(refused(DiskReport { path: path.to_owned(), ..DiskReport::default() }, fault))
    }

    fn signed(&self, report: DiskReport) -> DiskReport {
        DiskReport { pool: self.pool.to_owned(), storage_class_name: self.rule.storage_class_name.clone(), ..report }
    }
}

fn refused(report: DiskReport, fault: &DiskFault) -> DiskReport {
    DiskReport { usable: false, reason: fault.reason().to_owned(), message: fault.to_string(), ..report }
}

/// A rule whose patterns and sizes were read.
struct Filter<'a> {
    rule: Rule<'a>,
    names: Vec<Pattern>,
    models: Vec<Pattern>,
    smallest: Option<Quantity>,
    largest: Option<Quantity>,
}

/// Why a disk is not offered.
enum No {
    /// It is not one that the rule is about.
    PassedOver,
    Fault(DiskFault),
}

impl From<DiskFault> for No {
    fn from(fault: DiskFault) -> Self {
        Self::Fault(fault)
    }
}

impl<'a> Filter<'a> {
    fn of(rule: Rule<'a>) -> Result<Self, DiskFault> {
        let DiskRule { names, models, min_size, max_size, .. } = rule.rule;
        Ok(Self {
            rule,
            names: patterns(names)?,
            models: patterns(models)?,
            smallest: size(min_size.as_ref())?,
            largest: size(max_size.as_ref())?,
        })
    }

    fn names(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|pattern| pattern.matches(name))
    }

    fn judge(&self, scope: &DiskScope, found: &Found) -> Option<DiskReport> {
        let report = self.rule.signed(found.report());
        match self.check(scope, found) {
            Ok(()) => Some(report),
            Err(No::PassedOver) => None,
            Err(No::Fault(fault)) => Some(refused(report, &fault)),
        }
    }

    fn check(&self, scope: &DiskScope, found: &Found) -> Result<(), No> {
        let path = || found.path.clone();
        if found.kind == DiskKind::Mount && self.rule.rule.volume_mode == VolumeMode::Block {
            return Err(DiskFault::ModeMismatch { path: path() }.into());
        }
        self.check_properties(found)?;
        match (found.bytes, found.read_only) {
            (_, None) => return Err(unread(found, "whether writes are taken").into()),
            (_, Some(true)) if found.kind == DiskKind::Mount => {
                return Err(DiskFault::ReadOnlyFileSystem { path: path() }.into());
            }
            (_, Some(true)) => return Err(DiskFault::ReadOnlyDevice { path: path() }.into()),
            (None, _) => return Err(unread(found, "the size").into()),
            (Some(0), _) => return Err(DiskFault::NoSize { path: path() }.into()),
            (Some(_), Some(false)) => {}
        }
        if found.marks.identity.is_empty()
            && let Some(unread) = found.marks.unread.first()
        {
            return Err(DiskFault::not_told(&found.path, "what tells it from others", unread).into());
        }
        if found.kind == DiskKind::Device {
            self.check_free(scope, found)?;
        }
        Ok(())
    }

    /// What a rule asks of a disk. One of another size or kind is not its business.
    fn check_properties(&self, found: &Found) -> Result<(), No> {
        let unknown = |property| DiskFault::PropertyUnknown { path: found.path.clone(), property };
        // A size of 0 is a fault of its own, and none at all another.
        if let Some(bytes) = found.bytes.filter(|bytes| *bytes > 0) {
            let bytes = Quantity::from_units(i64::try_from(bytes).unwrap_or(i64::MAX));
            if self.smallest.is_some_and(|least| bytes < least) || self.largest.is_some_and(|most| bytes > most) {
                return Err(No::PassedOver);
            }
        }
        if let Some(asked) = self.rule.rule.rotational {
            let rotates = found.device.as_ref().and_then(|device| device.rotates().ok().flatten());
            match rotates {
                None => return Err(unknown(Property::Rotational).into()),
                Some(rotates) if rotates != asked => return Err(No::PassedOver),
                Some(_) => {}
            }
        }
        if !self.models.is_empty() {
            let model = found.device.as_ref().map(BlockDevice::model).and_then(Result::ok).flatten();
            match model {
                None => return Err(unknown(Property::Model).into()),
                Some(model) if !self.models.iter().any(|pattern| pattern.matches(&model)) => {
                    return Err(No::PassedOver);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn check_free(&self, scope: &DiskScope, found: &Found) -> Result<(), DiskFault> {
        let is_same = |known: &DiskIdentity| known.compare(&found.marks.identity) == SameDisk::Same;
        let is_known = scope.known.get(&found.path).is_some_and(is_same);
        if is_known && scope.claimed.contains(&found.path) {
            return Ok(());
        }
        // The same device by another name is not opened.
        if let Some((path, _)) = scope.known.iter().find(|(_, known)| !is_known && is_same(known)) {
            return Err(DiskFault::Duplicate { path: found.path.clone(), other: path.clone() });
        }
        refuse_used(scope, found)?;
        if is_known {
            return Ok(());
        }
        if self.rule.rule.allow_data { refuse_busy(found) } else { refuse_data(found) }
    }
}

fn unread(found: &Found, what: &'static str) -> DiskFault {
    DiskFault::not_told(&found.path, what, "the kernel does not say")
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>, DiskFault> {
    let read = |text: &String| {
        Pattern::new(text)
            .map_err(|error| DiskFault::BadPattern { pattern: text.clone(), problem: error.msg.to_owned() })
    };
    texts.iter().map(read).collect()
}

fn size(text: Option<&QuantityText>) -> Result<Option<Quantity>, DiskFault> {
    let read = |text: &QuantityText| {
        text.0
            .parse()
            .map_err(|error: crate::model::ParseQuantityError| DiskFault::BadSize { problem: error.to_string() })
    };
    text.map(read).transpose()
}
