//! Amounts as Kubernetes writes them: `10Gi`, `100m`, `1e3`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

use super::{Map, null_as_default};

/// An amount, exact to a nano-unit, with the grammar of `apimachinery/pkg/api/resource/quantity.go`.
///
/// Amounts finer than a nano-unit are rounded up (away from zero), larger ones than 2^63-1 are capped, both as Kubernetes
/// does. Only order and equality are offered: that is all that a decision needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nanos: i128,
}

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a quantity; write digits and one of n u m k M G T P E, Ki Mi Gi Ti Pi Ei, or e<exponent>")]
pub struct ParseQuantityError(String);

const NANOS: i128 = 1_000_000_000;
/// What `resource.Quantity` caps an amount to.
const LARGEST: i128 = i64::MAX as i128 * NANOS;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0 };

    /// The amount in whole units, rounded up.
    #[must_use]
    pub const fn units(self) -> i128 {
        let whole = self.nanos / NANOS;
        if self.nanos % NANOS > 0 { whole + 1 } else { whole }
    }

    /// An amount of whole units.
    #[must_use]
    pub const fn from_units(units: i64) -> Self {
        Self { nanos: units as i128 * NANOS }
    }
}

/// What one unit of the suffix is worth: a factor of 1024 to some power, or a power of ten.
enum Scale {
    Binary(u32),
    Decimal(i32),
}

fn scale(suffix: &str) -> Option<Scale> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [(&str, i32); 10] =
        [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
    if let Some(place) = BINARY.iter().position(|name| *name == suffix) {
        return u32::try_from(place + 1).ok().map(Scale::Binary);
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some(Scale::Decimal(*power));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // An exponent too large for the type is far beyond the cap, or far below a nano-unit.
    let power = exponent.parse().unwrap_or(if exponent.starts_with('-') { i32::MIN } else { i32::MAX });
    Some(Scale::Decimal(power))
}

/// `digits` (with `fraction_digits` of them behind the point) times `scale`, in nano-units, capped and rounded up.
fn nanos(digits: &str, fraction_digits: usize, scale: &Scale) -> i128 {
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return 0;
    }
    let behind = i64::try_from(fraction_digits).unwrap_or(i64::MAX);
    let (factor, power) = match scale {
        Scale::Binary(thousands) => (1_i128 << (10 * thousands), 9 - behind),
        Scale::Decimal(power) => (1, 9 + i64::from(*power) - behind),
    };
    let magnitude = i64::try_from(significant.len()).unwrap_or(i64::MAX).saturating_add(power);
    if magnitude > 30 {
        return LARGEST;
    }
    if magnitude < -20 {
        return 1;
    }
    // At most 30 digits count before the point; what is cut off behind them can only round up.
    let (head, rest) = significant.split_at(significant.len().min(30));
    let cut = i64::try_from(rest.len()).unwrap_or(i64::MAX);
    let inexact = rest.bytes().any(|byte| byte != b'0');
    // 30 digits fit into an i128.
    let value: i128 = head.parse().unwrap_or(LARGEST);
    let power = power + cut;
    let Some(value) = value.checked_mul(factor) else { return LARGEST };
    let scaled = if power >= 0 {
        u32::try_from(power).ok().and_then(|power| 10_i128.checked_pow(power)).and_then(|ten| value.checked_mul(ten))
    } else {
        match u32::try_from(-power).ok().and_then(|power| 10_i128.checked_pow(power)) {
            Some(ten) => Some(value / ten + i128::from(value % ten != 0 || inexact)),
            None => Some(1),
        }
    };
    scaled.unwrap_or(LARGEST).min(LARGEST)
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseQuantityError(text.chars().take(64).collect());
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(wrong());
        }
        let scale = scale(suffix).ok_or_else(wrong)?;
        let amount = nanos(&format!("{whole}{fraction}"), fraction.len(), &scale);
        Ok(Self { nanos: if text.starts_with('-') { -amount } else { amount } })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        if self.nanos % NANOS != 0 {
            return write!(f, "{}n", self.nanos);
        }
        let mut units = self.nanos / NANOS;
        let mut place = 0;
        while units != 0 && units % 1024 == 0 && place + 1 < BINARY.len() {
            units /= 1024;
            place += 1;
        }
        write!(f, "{units}{}", BINARY[place])
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity such as 10Gi")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, units: i64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(units))
            }
            fn visit_u64<E: de::Error>(self, units: u64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(i64::try_from(units).unwrap_or(i64::MAX)))
            }
            fn visit_f64<E: de::Error>(self, units: f64) -> Result<Quantity, E> {
                units.to_string().parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Amounts of resources that a container, claim or template asks for.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ResourceAmounts {
    /// At least this much.
    #[serde(default, deserialize_with = "null_as_default")]
    pub requests: Map<Quantity>,
    /// At most this much; also the request where none is given.
    #[serde(default, deserialize_with = "null_as_default")]
    pub limits: Map<Quantity>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Quantity;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn equal_amounts_written_differently_are_equal() {
        for (left, right) in [
            ("1Gi", "1073741824"),
            ("1000m", "1"),
            ("1e3", "1k"),
            ("1E3", "1000"),
            ("12E", "12000000000000000000"),
            ("1Ei", "1152921504606846976"),
            ("1.5Gi", "1536Mi"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1", "1"),
            ("1e-3", "1m"),
            ("1u", "1000n"),
            ("0", "-0"),
            ("0.0000000001", "1n"),
            ("99999999999999999999999999999999", "9223372036854775807"),
            ("1e99999999999", "9223372036854775807"),
            ("1e-99999999999", "1n"),
            ("0000000000000000000000000000000000000000001Ki", "1024"),
        ] {
            assert_eq!(quantity(left), quantity(right), "{left} = {right}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_refused() {
        for text in ["", "Gi", ".", "1 Gi", "1gi", "1K", "1mi", "1e", "1e+", "1.2.3", "--1", "1Kii", "0x1", "1,5", "١"]
        {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn order_is_the_order_of_the_numbers(a in 0_i64..=i64::MAX, b in 0_i64..=i64::MAX) {
            prop_assert_eq!(quantity(&a.to_string()).cmp(&quantity(&b.to_string())), a.cmp(&b));
        }

        #[test]
        fn a_binary_suffix_is_a_factor(units in 0_i64..1000, place in 1_u32..=5) {
            let suffix = ["Ki", "Mi", "Gi", "Ti", "Pi"][place as usize - 1];
            prop_assert_eq!(quantity(&format!("{units}{suffix}")).units(), i128::from(units) << (10 * place));
        }

        #[test]
        fn a_fraction_is_exact_to_a_nano_unit(units in 0_u64..1_000_000_000, nanos in 0_u64..1_000_000_000) {
            let written = quantity(&format!("{units}.{nanos:09}"));
            prop_assert_eq!(written, quantity(&format!("{}n", units * 1_000_000_000 + nanos)));
        }

        #[test]
        fn what_is_shown_reads_back(text in "[+-]?[0-9]{1,20}(\\.[0-9]{0,12})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]|E-[0-9])?") {
            let read = quantity(&text);
            prop_assert_eq!(quantity(&read.to_string()), read);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _outcome = text.parse::<Quantity>();
        }
    }
}
