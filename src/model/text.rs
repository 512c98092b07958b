//! Short texts that objects share.

use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::Toleration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

/// A text that is never changed in place. Copies share it, and so do objects in one watch cache: ten
/// thousand claims hold the name of their class once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Arc<str>);

impl Text {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as a string of its own; empty where there is none.
    #[must_use]
    pub fn or_empty(text: Option<&Self>) -> String {
        text.map(String::from).unwrap_or_default()
    }
}

impl Default for Text {
    fn default() -> Self {
        Self(Arc::clone(&EMPTY))
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        if text.is_empty() { Self::default() } else { Self(Arc::from(text)) }
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<&Text> for String {
    fn from(text: &Text) -> Self {
        text.as_str().to_owned()
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().to_owned()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl PartialEq<String> for Text {
    fn eq(&self, other: &String) -> bool {
        &*self.0 == other.as_str()
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::from(text))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Texts that were met before, so that equal ones are kept once.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    known: HashSet<Text>,
    /// Lists of tolerations that Pods came with lately.
    tolerations: VecDeque<Arc<[Toleration]>>,
    /// How many were left when those that nobody else held were last dropped.
    kept: usize,
}

impl Texts {
    /// Puts the one that is known in the place of an equal one.
    pub fn share(&mut self, text: &mut Text) {
        if let Some(known) = self.known.get(text.as_str()) {
            text.clone_from(known);
            return;
        }
        self.known.insert(text.clone());
        // Twice as many as were in use: dropping what is not costs a fraction of what has come in since.
        if self.known.len() > 2 * self.kept.max(64) {
            self.known.retain(|known| Arc::strong_count(&known.0) > 1);
            self.known.shrink_to_fit();
            self.kept = self.known.len();
        }
    }

    /// The same for a Pod's tolerations. Most Pods have just those that every Pod is given; the few lists that are
    /// remembered are as many as are compared with each.
    pub fn share_tolerations(&mut self, list: &mut Arc<[Toleration]>) {
        const REMEMBERED: usize = 16;
        if let Some(known) = self.tolerations.iter().find(|known| *known == list) {
            list.clone_from(known);
            return;
        }
        if self.tolerations.len() == REMEMBERED {
            self.tolerations.pop_front();
        }
        self.tolerations.push_back(Arc::clone(list));
    }

    /// The same for a text that may be absent.
    pub fn share_some(&mut self, text: &mut Option<Text>) {
        if let Some(text) = text {
            self.share(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Text, Texts};

    #[test]
    fn equal_texts_become_one_and_unused_ones_go() {
        let mut texts = Texts::default();
        let (mut first, mut second) = (Text::from("disk"), Text::from("disk"));
        texts.share(&mut first);
        texts.share(&mut second);
        assert!(Arc::ptr_eq(&first.0, &second.0));
        for number in 0..10_000 {
            texts.share(&mut Text::from(format!("text-{number}")));
        }
        assert!(texts.known.len() <= 129, "{}", texts.known.len());
        assert!(texts.known.contains("disk"));
    }

    #[test]
    fn reads_and_writes_as_a_string() {
        let text: Text = serde_json::from_str(r#""a\"b""#).unwrap();
        assert_eq!(text, "a\"b");
        assert_eq!(serde_json::to_string(&text).unwrap(), r#""a\"b""#);
        assert!(serde_json::from_str::<Text>("1").is_err());
    }
}
