//! The xenstore wire format: `public/io/xs_wire.h` and `docs/misc/xenstore.txt`.
//!
//! A message is a [`Header`] and at most [`PAYLOAD_MAX`] bytes. A request with an error is answered
//! by [`MessageType::ERROR`] and the error's name.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Errno;

/// `XENSTORE_PAYLOAD_MAX`: bytes after a header, at most.
pub const PAYLOAD_MAX: usize = 4096;
/// `XENSTORE_ABS_PATH_MAX`: bytes in an absolute path, at most.
pub const ABS_PATH_MAX: usize = 3072;
/// `XENSTORE_REL_PATH_MAX`: bytes in a path relative to the domain's own home, at most.
pub const REL_PATH_MAX: usize = 2048;

/// `enum xsd_sockmsg_type`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(transparent)]
pub struct MessageType(pub u32);

impl MessageType {
    /// `XS_DIRECTORY`: path -> the children's names.
    pub const DIRECTORY: Self = Self(1);
    /// `XS_READ`: path -> value.
    pub const READ: Self = Self(2);
    /// `XS_WATCH`: path, token.
    pub const WATCH: Self = Self(4);
    /// `XS_UNWATCH`: path, token.
    pub const UNWATCH: Self = Self(5);
    /// `XS_TRANSACTION_START` -> the transaction's number in decimal.
    pub const TRANSACTION_START: Self = Self(6);
    /// `XS_TRANSACTION_END`: `T` or `F`.
    pub const TRANSACTION_END: Self = Self(7);
    /// `XS_WRITE`: path, value.
    pub const WRITE: Self = Self(11);
    /// `XS_MKDIR`: path.
    pub const MKDIR: Self = Self(12);
    /// `XS_RM`: path.
    pub const RM: Self = Self(13);
    /// `XS_WATCH_EVENT`: path, token; unasked for.
    pub const WATCH_EVENT: Self = Self(15);
    /// `XS_ERROR`: the name of an error.
    pub const ERROR: Self = Self(16);
    /// `XS_RESET_WATCHES`: an empty string; forgets all watches and transactions of the connection.
    pub const RESET_WATCHES: Self = Self(21);
}

/// `struct xsd_sockmsg`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Header {
    /// What it is.
    pub message: MessageType,
    /// The asker's number for the request, echoed in the reply.
    pub request: u32,
    /// The transaction it belongs to; 0 for none.
    pub transaction: u32,
    /// Bytes that follow.
    pub len: u32,
}
const _: () = assert!(size_of::<Header>() == 16);

/// Bytes in a [`Header`].
pub const HEADER_LEN: usize = size_of::<Header>();

/// The stream is out of step: a header announces more than [`PAYLOAD_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of {0} bytes announced")]
pub struct Oversized(pub u32);

/// Puts messages together from however they arrive.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    /// How many more bytes are wanted before [`Assembler::take`] can give a message; never 0
    /// unless a message is complete.
    ///
    /// # Errors
    /// [`Oversized`].
    pub fn wanted(&self) -> Result<usize, Oversized> {
        let Ok((header, rest)) = Header::read_from_prefix(&self.bytes) else {
            return Ok(HEADER_LEN - self.bytes.len());
        };
        match usize::try_from(header.len) {
            Ok(len) if len <= PAYLOAD_MAX => Ok(len.saturating_sub(rest.len())),
            _ => Err(Oversized(header.len)),
        }
    }

    /// Adds bytes, no more than were [`wanted`](Assembler::wanted).
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The message, once it is complete.
    ///
    /// # Errors
    /// [`Oversized`].
    pub fn take(&mut self) -> Result<Option<(Header, Vec<u8>)>, Oversized> {
        if self.wanted()? != 0 {
            return Ok(None);
        }
        let Ok((header, payload)) = Header::read_from_prefix(&self.bytes) else {
            return Ok(None);
        };
        let message = (header, payload.to_vec());
        self.bytes.clear();
        Ok(Some(message))
    }
}

/// Appends a message made of `parts` to `out`; false, and nothing appended, if it would be longer
/// than the protocol allows.
pub fn encode(
    out: &mut Vec<u8>,
    message: MessageType,
    request: u32,
    transaction: u32,
    parts: &[&[u8]],
) -> bool {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let Ok(len32) = u32::try_from(len) else {
        return false;
    };
    if len > PAYLOAD_MAX {
        return false;
    }
    let header = Header {
        message,
        request,
        transaction,
        len: len32,
    };
    out.extend_from_slice(header.as_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    true
}

/// The strings of a payload, each ended by a NUL (the last one's may be missing).
pub fn strings(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let payload = payload.strip_suffix(b"\0").unwrap_or(payload);
    payload
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
}

/// The error that an [`MessageType::ERROR`] payload names; an unknown one is `EIO`.
#[must_use]
pub fn error(payload: &[u8]) -> Errno {
    strings(payload)
        .next()
        .and_then(|name| core::str::from_utf8(name).ok())
        .and_then(Errno::from_name)
        .unwrap_or(Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn errors_are_known_by_name_and_strange_ones_read_as_eio() {
        assert_eq!(error(b"ENOENT\0"), Errno::ENOENT);
        assert_eq!(error(b"EQUOTA"), Errno::EQUOTA);
        assert_eq!(error(b"\xff\xfe\0"), Errno::EIO);
        assert_eq!(error(b""), Errno::EIO);
    }

    #[test]
    fn a_payload_above_the_limit_is_neither_sent_nor_taken() {
        let mut out = Vec::new();
        assert!(!encode(
            &mut out,
            MessageType::WRITE,
            1,
            0,
            &[&vec![0; PAYLOAD_MAX], b"x"]
        ));
        assert!(out.is_empty());
        let mut assembler = Assembler::default();
        let header = Header {
            len: PAYLOAD_MAX as u32 + 1,
            ..Header::default()
        };
        assembler.push(header.as_bytes());
        assert_eq!(assembler.take(), Err(Oversized(PAYLOAD_MAX as u32 + 1)));
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_split(
            messages in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..300)), 1..6),
            cuts in prop::collection::vec(1usize..40, 1..40),
        ) {
            let mut stream = Vec::new();
            for (request, payload) in &messages {
                prop_assert!(encode(&mut stream, MessageType::READ, *request, 7, &[payload]));
            }
            let mut assembler = Assembler::default();
            let mut got = Vec::new();
            let mut cuts = cuts.iter().cycle();
            let mut rest = &stream[..];
            loop {
                if let Some((header, payload)) = assembler.take().unwrap() {
                    prop_assert_eq!(header.len as usize, payload.len());
                    got.push((header.request, payload));
                    continue;
                }
                if rest.is_empty() {
                    break;
                }
                let count = assembler.wanted().unwrap().min(*cuts.next().unwrap()).min(rest.len());
                assembler.push(&rest[..count]);
                rest = &rest[count..];
            }
            prop_assert_eq!(got, messages);
        }

        #[test]
        fn rubbish_never_panics_nor_grows(bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 200 } else { 20_000 })) {
            let mut assembler = Assembler::default();
            for byte in bytes {
                match assembler.take() {
                    Ok(Some((_, payload))) => { let _ = (error(&payload), strings(&payload).count()); }
                    Ok(None) => {}
                    Err(_) => break,
                }
                if assembler.wanted().is_ok_and(|wanted| wanted > 0) {
                    assembler.push(&[byte]);
                }
                prop_assert!(assembler.bytes.len() <= HEADER_LEN + PAYLOAD_MAX);
            }
        }
    }
}
