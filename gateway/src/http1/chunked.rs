//! Decoder of the chunked transfer coding (RFC 9112 §7.1): sans-I/O, strict, bounded.
//!
//! It never hands on framing bytes: the caller receives spans of data and writes chunk headers of its own.

use super::fields::is_token_byte;

/// Chunk extensions accepted in one chunk and in a whole message, in bytes.
const EXTENSION_PER_CHUNK: usize = 1_024;
const EXTENSION_PER_MESSAGE: usize = 16 * 1_024;
/// Trailer section limits.
const TRAILER_BYTES: usize = 8 * 1_024;
const TRAILER_FIELDS: u8 = 32;
/// A size of more hexadecimal digits than this is refused, leading zeros included.
const SIZE_DIGITS: u8 = 16;

/// The coding is malformed; the message cannot be continued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct BadChunk;

/// What [`Decoder::next`] found at the start of its input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// `n` bytes of framing: skip them.
    Skip(usize),
    /// `n ≥ 1` bytes of data.
    Data(usize),
    /// More input is needed.
    NeedMore,
    /// `n` last bytes of framing; the message ends after them.
    End(usize),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    SizeStart,
    Size,
    Extension(Extension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line or of the final empty line.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

/// Grammar of `*( ";" name [ "=" value ] )`; whitespace around the signs is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Extension {
    NameStart,
    Name,
    ValueStart,
    Value,
    Quoted,
    QuotedPair,
    QuotedEnd,
}

/// Decoder state of one message.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    state: State,
    digits: u8,
    extension: u16,
    extensions: u16,
    trailer_fields: u8,
    /// Data bytes left in the current chunk, or the size being read.
    remaining: u64,
    /// The trailer section as received, line by line; empty (and unallocated) for most messages.
    trailers: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::SizeStart,
            remaining: 0,
            digits: 0,
            extension: 0,
            extensions: 0,
            trailer_fields: 0,
            trailers: Vec::new(),
        }
    }
}

impl Decoder {
    /// Looks at the start of `input`. The caller consumes the bytes of the returned step before the next call.
    ///
    /// # Errors
    /// [`BadChunk`] for any deviation from the grammar or a limit.
    pub(crate) fn next(&mut self, input: &[u8]) -> Result<Step, BadChunk> {
        if self.state == State::Done {
            return Ok(Step::End(0));
        }
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            if self.state == State::Data {
                if at > 0 {
                    return Ok(Step::Skip(at));
                }
                let available = u64::try_from(input.len()).unwrap_or(u64::MAX).min(self.remaining);
                self.data_moved(available);
                return Ok(Step::Data(usize::try_from(available).unwrap_or(0)));
            }
            self.framing_byte(*byte)?;
            at += 1;
            if self.state == State::Done {
                return Ok(Step::End(at));
            }
        }
        Ok(if at > 0 { Step::Skip(at) } else { Step::NeedMore })
    }

    fn data_moved(&mut self, n: u64) {
        self.remaining = self.remaining.saturating_sub(n);
        if self.state == State::Data && self.remaining == 0 {
            self.state = State::DataCr;
        }
    }

    /// Complete `name: value CRLF` lines of the trailer section, once the message has ended.
    pub(crate) fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    fn framing_byte(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.state = match self.state {
            State::SizeStart | State::Size => self.size_byte(byte)?,
            State::Extension(extension) => self.extension_byte(extension, byte)?,
            State::SizeLf if byte == b'\n' => {
                self.extension = 0;
                if self.remaining == 0 { State::TrailerStart } else { State::Data }
            }
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => {
                self.digits = 0;
                State::SizeStart
            }
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf => {
                self.trailer_byte(byte)?
            }
            State::EndLf if byte == b'\n' => State::Done,
            State::SizeLf | State::Data | State::DataCr | State::DataLf | State::EndLf | State::Done => {
                return Err(BadChunk);
            }
        };
        Ok(())
    }

    fn size_byte(&mut self, byte: u8) -> Result<State, BadChunk> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.state == State::Size => return Ok(State::SizeLf),
            b';' if self.state == State::Size => return Ok(State::Extension(Extension::NameStart)),
            _ => return Err(BadChunk),
        };
        if self.state == State::SizeStart {
            self.remaining = 0;
        }
        self.digits += 1;
        if self.digits > SIZE_DIGITS || self.remaining > u64::MAX >> 5 {
            return Err(BadChunk);
        }
        self.remaining = (self.remaining << 4) | u64::from(digit);
        Ok(State::Size)
    }

    fn extension_byte(&mut self, state: Extension, byte: u8) -> Result<State, BadChunk> {
        self.extension += 1;
        self.extensions += 1;
        if usize::from(self.extension) > EXTENSION_PER_CHUNK
            || usize::from(self.extensions) > EXTENSION_PER_MESSAGE
        {
            return Err(BadChunk);
        }
        let next = match (state, byte) {
            (Extension::Name | Extension::Value | Extension::QuotedEnd, b'\r') => return Ok(State::SizeLf),
            (Extension::Name | Extension::Value | Extension::QuotedEnd, b';') => Extension::NameStart,
            (Extension::Name, b'=') => Extension::ValueStart,
            (Extension::NameStart | Extension::Name, byte) if is_token_byte(byte) => Extension::Name,
            (Extension::ValueStart, b'"') => Extension::Quoted,
            (Extension::ValueStart | Extension::Value, byte) if is_token_byte(byte) => Extension::Value,
            (Extension::Quoted, b'"') => Extension::QuotedEnd,
            (Extension::Quoted, b'\\') => Extension::QuotedPair,
            (Extension::Quoted | Extension::QuotedPair, b'\t' | b' '..=b'~' | 0x80..) => Extension::Quoted,
            _ => return Err(BadChunk),
        };
        Ok(State::Extension(next))
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BadChunk> {
        if self.state == State::TrailerStart && byte == b'\r' {
            return Ok(State::EndLf);
        }
        if self.trailers.len() >= TRAILER_BYTES {
            return Err(BadChunk);
        }
        self.trailers.push(byte);
        match (self.state, byte) {
            (State::TrailerName, b':') => {
                self.trailer_fields += 1;
                if self.trailer_fields > TRAILER_FIELDS { Err(BadChunk) } else { Ok(State::TrailerValue) }
            }
            (State::TrailerStart | State::TrailerName, byte) if is_token_byte(byte) => Ok(State::TrailerName),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => Ok(State::TrailerValue),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            _ => Err(BadChunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8], split: usize) -> Result<(Vec<u8>, bool), BadChunk> {
        let mut decoder = Decoder::default();
        let mut data = Vec::new();
        let mut pending = Vec::new();
        for piece in input.chunks(split.max(1)) {
            pending.extend_from_slice(piece);
            loop {
                match decoder.next(&pending)? {
                    Step::Skip(n) => drop(pending.drain(..n)),
                    Step::Data(n) => data.extend(pending.drain(..n)),
                    Step::NeedMore => break,
                    Step::End(_) => return Ok((data, true)),
                }
            }
        }
        Ok((data, false))
    }

    #[test]
    fn decodes_alike_however_it_is_split() {
        let input = b"5\r\nhello\r\n1;a=b;c=\"q\\\"x\"\r\n \r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n";
        for split in 1..input.len() {
            assert_eq!(decode(input, split), Ok((b"hello 0123456789".to_vec(), true)), "split {split}");
        }
    }

    #[test]
    fn refuses_every_malformed_size_and_line_end() {
        let bad: &[&[u8]] = &[
            b"0x5\r\n",
            b"+5\r\n",
            b"-0\r\n",
            b"-5\r\n",
            b"0_5\r\n",
            b" 5\r\n",
            b"\t5\r\n",
            b"5g\r\n",
            b"\r\n",
            b"5 \r\n",
            b"00000000000000005\r\n",
            b"FFFFFFFFFFFFFFFF1\r\n",
            b"FFFFFFFFFFFFFFFF\r\n",
            b"5\nhello",
            b"5\r\nhello\n",
            b"5\rhello",
            b"5\r\r;a",
            b"5;\n",
            b"5;a\nhello",
            b"5;\r\n",
            b"5;=v\r\n",
            b"5;a b\r\n",
            b"5;a=\"unterminated\r\n",
            b"5;[\r\n",
            b"5\r\nhello!!\r\n",
            b"0\r\n\n",
            b"0\r\nX\r\n\r\n",
            b"0\r\nX: a\n\r\n",
            b"0\r\nX:POST / HTTP/1.1\x00\r\n",
        ];
        for input in bad {
            assert_eq!(decode(input, 64), Err(BadChunk), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn bounds_extensions_and_trailers() {
        let mut long = b"5;a=".to_vec();
        long.extend([b'x'; 2_000]);
        assert_eq!(decode(&long, 100), Err(BadChunk));
        let mut many = Vec::new();
        for _ in 0..20 {
            many.extend_from_slice(b"1;a=");
            many.extend([b'x'; 1_000]);
            many.extend_from_slice(b"\r\nz\r\n");
        }
        assert_eq!(decode(&many, 4_096), Err(BadChunk));
        let mut trailers = b"0\r\n".to_vec();
        for _ in 0..1_000 {
            trailers.extend_from_slice(b"X-T: 0123456789\r\n");
        }
        assert_eq!(decode(&trailers, 4_096), Err(BadChunk));
    }
}
