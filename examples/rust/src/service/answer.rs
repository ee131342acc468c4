//! Answers to completions, at once or as events. Bytes that are no UTF-8 become U+FFFD, as JSON asks.
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use serde::Serialize;
use tokio::sync::mpsc::Sender;

use super::{new_id, Refusal};
use crate::model::{Error, Listener};

#[derive(Debug, Serialize)]
pub struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: &'static str,
    choices: [Choice; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<String>, // by which to continue
    recipe: String,
}

#[derive(Debug, Default, Serialize)]
struct Choice {
    index: usize,
    text: String,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Usage {
    completion_tokens: usize,
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Completion {
    pub fn new(cache: Option<String>, recipe: String) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            id: format!("cmpl-{}", new_id()),
            object: "text_completion",
            created: now.as_secs(),
            model: "tiny",
            choices: [Choice::default()],
            usage: None,
            cache,
            recipe,
        }
    }
}

/// Sends an answer to who waits for it: a body, or one event after the other. What goes wrong before the first event goes
/// as an error, which becomes the response's status.
pub struct Writer {
    to: Sender<Result<Bytes, Refusal>>,
    answer: Completion,
    stream: bool,
    begun: bool,
    bytes: Vec<u8>, // not sent yet
}

impl Writer {
    pub fn new(to: Sender<Result<Bytes, Refusal>>, answer: Completion, stream: bool) -> Self {
        Self { to, answer, stream, begun: false, bytes: vec![] }
    }

    /// The bytes that wait become the answer's text.
    fn fill(&mut self, finish_reason: Option<&'static str>) {
        let text = valid_utf8(&self.bytes);
        self.answer.choices = [Choice { index: 0, text, finish_reason }];
        self.bytes.clear();
    }

    fn send(&mut self, text: String) -> Result<(), Error> {
        self.begun = true;
        self.to.blocking_send(Ok(text.into())).map_err(|_| Error::Gone)
    }

    fn json(&self) -> String {
        serde_json::to_string(&self.answer).expect("an answer is JSON")
    }

    fn event(&mut self, finish_reason: Option<&'static str>) -> Result<(), Error> {
        self.fill(finish_reason);
        self.send(format!("data: {}\n\n", self.json()))
    }

    /// Sends the rest. Whether anybody is left to read it does not matter any more.
    pub fn finish(mut self, prompt_tokens: usize, completion_tokens: usize) {
        let total_tokens = prompt_tokens + completion_tokens;
        self.answer.usage = Some(Usage { completion_tokens, prompt_tokens, total_tokens });
        let reason = Some("length");
        let _ = if self.stream {
            self.event(reason).and_then(|()| self.send("data: [DONE]\n\n".into()))
        } else {
            self.fill(reason);
            self.send(format!("{}\n", self.json()))
        };
    }

    /// Says what went wrong, in the stream if that has begun.
    pub fn fail(mut self, refusal: Refusal) {
        let _ = if self.begun {
            self.send(format!("data: {}\n\n", refusal.body())).is_ok()
        } else {
            self.to.blocking_send(Err(refusal)).is_ok()
        };
    }
}

impl Listener for Writer {
    fn put(&mut self, token: u8) -> Result<(), Error> {
        self.bytes.push(token);
        if self.stream && !is_begun(&self.bytes) {
            return self.event(None);
        }
        Ok(())
    }

    fn gone(&self) -> bool {
        self.to.is_closed()
    }
}

/// May further bytes make a character of these, which are none yet?
fn is_begun(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

/// A text of these bytes; every run of those that are no UTF-8 becomes one U+FFFD.
fn valid_utf8(mut bytes: &[u8]) -> String {
    let (mut text, mut damaged) = (String::with_capacity(bytes.len()), false);
    loop {
        let (valid, rest) = match std::str::from_utf8(bytes) {
            Ok(valid) => (valid, None),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                let skip = error.error_len().unwrap_or(rest.len());
                (std::str::from_utf8(valid).unwrap_or_default(), Some(&rest[skip..]))
            }
        };
        damaged &= valid.is_empty();
        text.push_str(valid);
        let Some(rest) = rest else { return text };
        if !damaged {
            text.push('\u{FFFD}');
        }
        (damaged, bytes) = (true, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_bytes() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"plain", "plain"),
            ("käse €".as_bytes(), "käse €"),
            (b"a\xFFb", "a\u{FFFD}b"),
            (b"a\xFF\xFE\xE2\x82b", "a\u{FFFD}b"), // one run
            (b"\xE2\x82", "\u{FFFD}"),
            (b"\xE2\xFFa\xFF", "\u{FFFD}a\u{FFFD}"),
        ] {
            assert_eq!(valid_utf8(bytes), text, "{bytes:?}");
        }
    }

    #[test]
    fn characters_that_have_begun() {
        for bytes in [&b"\xC3"[..], b"\xE2\x82", b"\xF0\x9F\x98"] {
            assert!(is_begun(bytes), "{bytes:?}");
        }
        for bytes in
            [&b""[..], b"a", "ä".as_bytes(), "€".as_bytes(), b"\xFF", b"\xE2\x28", b"\xE0\x80"]
        {
            assert!(!is_begun(bytes), "{bytes:?}");
        }
    }
}
