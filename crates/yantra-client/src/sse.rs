//! Server-sent events from bytes that arrive in any pieces.
//!
//! Follows the WHATWG HTML standard, section 9.2.6: three line endings, comments, many `data` lines per event, a byte
//! order mark at the start. Events are bounded, so that a hostile server cannot fill the memory.

use crate::ClientError;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event` field; empty when the server gives none (which means `message`).
    pub event: String,
    /// The `data` lines, joined by newlines.
    pub data: String,
}

/// Larger than any event of a sane server (a chunk with 20 alternatives per token is some 10 KB).
const MAX_EVENT_BYTES: usize = 8 << 20;

/// Puts events together from pieces of a byte stream.
#[derive(Debug, Default)]
pub struct SseDecoder {
    line: Vec<u8>,
    event: String,
    data: String,
    has_data: bool,
    /// The last byte was `\r`: a `\n` that follows belongs to it.
    after_carriage_return: bool,
    past_first_line: bool,
}

impl SseDecoder {
    /// Adds bytes; appends the events they complete to `events`.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] for an event larger than 8 MiB or bytes that are not UTF-8.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), ClientError> {
        for &byte in bytes {
            let follows_carriage_return = std::mem::take(&mut self.after_carriage_return);
            match byte {
                b'\n' if follows_carriage_return => {}
                b'\n' | b'\r' => {
                    self.after_carriage_return = byte == b'\r';
                    self.end_line(events)?;
                }
                _ => {
                    if self.line.len() + self.data.len() >= MAX_EVENT_BYTES {
                        return Err(ClientError::protocol("an event below 8 MiB", "a longer one"));
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<SseEvent>) -> Result<(), ClientError> {
        let bytes = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&bytes)
            .map_err(|_| ClientError::protocol("an event in UTF-8", String::from_utf8_lossy(&bytes)))?;
        if !std::mem::replace(&mut self.past_first_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
        } else {
            self.field(line);
        }
        self.line = bytes;
        self.line.clear();
        Ok(())
    }

    fn field(&mut self, line: &str) {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.event),
            // Comments (an empty name), `id` and `retry` mean nothing to one request, and unknown fields are ignored.
            _ => {}
        }
    }

    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        if std::mem::take(&mut self.has_data) {
            events.push(SseEvent { event, data });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Decodes `input` whole, then byte by byte: the pieces must not matter.
    fn check(input: &str, expected: &[(&str, &str)]) {
        for piece in [input.len().max(1), 1, 3] {
            let (mut decoder, mut events) = (SseDecoder::default(), Vec::new());
            for bytes in input.as_bytes().chunks(piece) {
                decoder.push(bytes, &mut events).unwrap();
            }
            let got: Vec<_> = events.iter().map(|e| (&*e.event, &*e.data)).collect();
            assert_eq!(got, expected, "in pieces of {piece} bytes: {input:?}");
        }
    }

    #[test]
    fn events_of_the_standard() {
        check("data: one\n\n", &[("", "one")]);
        check("data: one\r\n\r\ndata:two\r\rdata:three\n\n", &[("", "one"), ("", "two"), ("", "three")]);
        check("data: YHOO\ndata: +2\ndata: 10\n\n", &[("", "YHOO\n+2\n10")]);
        check(": a comment\n\ndata: x\nid: 1\nretry: 5\n\n", &[("", "x")]);
        check("event: error\ndata: {}\n\n", &[("error", "{}")]);
        check("data\n\ndata\ndata\n\ndata:", &[("", ""), ("", "\n")]);
        check("data:test\n\ndata:  test\n\n", &[("", "test"), ("", " test")]);
        check("\u{feff}data: नमस्ते\n\n", &[("", "नमस्ते")]);
        check("event: only\n\ndata: x\n\n", &[("", "x")]);
        check("", &[]);
    }

    #[test]
    fn hostile_streams_are_refused() {
        let mut decoder = SseDecoder::default();
        let long = vec![b'x'; MAX_EVENT_BYTES + 1];
        assert!(decoder.push(&long, &mut Vec::new()).is_err());
        assert!(SseDecoder::default().push(b"data: \xff\n", &mut Vec::new()).is_err());
    }
}
