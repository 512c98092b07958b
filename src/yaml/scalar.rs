//! Scalars as kubectl reads them.
//!
//! kubectl turns YAML into JSON by sigs.k8s.io/yaml, whose parser follows YAML 1.1 for what is written without quotes:
//! `on` is a boolean, `0777` is octal. The rules here are those of its `goyaml.v2/resolve.go`.

use serde_json::{Number, Value};

pub use serde_saphyr::granit_parser::ScalarStyle;

/// What a scalar without quotes means.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// Itself.
    Text,
    /// A boolean, a number or null.
    Value(Value),
    /// A number that JSON cannot hold.
    NotFinite,
}

/// What a scalar without quotes means to kubectl.
pub(super) fn meaning(text: &str) -> Meaning {
    let Some(first) = text.bytes().next() else { return Meaning::Value(Value::Null) };
    let value = match first {
        b'~' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'y' | b'Y' | b'o' | b'O' => word(text),
        b'+' | b'-' | b'.' if is_not_finite(text) => return Meaning::NotFinite,
        b'+' | b'-' | b'.' | b'0'..=b'9' => number(text),
        _ => None,
    };
    value.map_or(Meaning::Text, Meaning::Value)
}

fn word(text: &str) -> Option<Value> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(Value::Bool(true)),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Some(Value::Bool(false))
        }
        "~" | "null" | "Null" | "NULL" => Some(Value::Null),
        _ => None,
    }
}

fn is_not_finite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

/// What a plain scalar that starts with a digit, a sign or a dot means.
fn number(text: &str) -> Option<Value> {
    if !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let plain = if text.contains('_') { &text.replace('_', "") } else { text };
    integer(plain).or_else(|| {
        // Go's parser reports a number out of range as an error, and the scalar stays text.
        let value = is_float(plain).then(|| plain.parse::<f64>().ok()).flatten()?;
        Number::from_f64(value).map(Value::Number)
    })
}

/// An integer by Go's rules for base 0: `0x`, `0o`, `0b`, and a leading zero for octal.
fn integer(text: &str) -> Option<Value> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        let value = 0_i64.checked_sub_unsigned(magnitude)?;
        Some(Value::Number(value.into()))
    } else {
        Some(Value::Number(magnitude.into()))
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, part)) => digits(whole) && digits(part) && !(whole.is_empty() && part.is_empty()),
        None => !mantissa.is_empty() && digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let unsigned = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !unsigned.is_empty() && digits(unsigned)
    });
    mantissa_fits && exponent_fits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        let cases = [
            ("", json!(null)),
            ("~", json!(null)),
            ("NULL", json!(null)),
            ("on", json!(true)),
            ("y", json!(true)),
            ("No", json!(false)),
            ("oN", json!("oN")),
            ("true", json!(true)),
            ("0", json!(0)),
            ("-7", json!(-7)),
            ("+7", json!(7)),
            ("1_000", json!(1000)),
            ("0777", json!(511)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("-0b11", json!(-3)),
            ("08", json!(8.0)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("1.5", json!(1.5)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1e3", json!(1000.0)),
            ("1e999", json!("1e999")),
            (".", json!(".")),
            ("-", json!("-")),
            ("+e1", json!("+e1")),
            ("10Gi", json!("10Gi")),
            ("1:30", json!("1:30")),
            ("2001-12-14", json!("2001-12-14")),
            ("0x", json!("0x")),
            ("--1", json!("--1")),
            ("k3d-test-server-0", json!("k3d-test-server-0")),
        ];
        for (text, meaning) in cases {
            let expected = if meaning.is_string() { Meaning::Text } else { Meaning::Value(meaning) };
            assert_eq!(super::meaning(text), expected, "{text:?}");
        }
        for text in [".inf", "-.Inf", ".nan"] {
            assert_eq!(super::meaning(text), Meaning::NotFinite, "{text:?}");
        }
    }
}
