//! The server's side of the NBD protocol, as far as QEMU needs it: fixed newstyle negotiation of
//! one export whatever its name, then reads, writes and flushes, one after the other, with simple
//! replies. Numbers on the line are big-endian. The protocol is described in `doc/proto.md` of
//! <https://github.com/NetworkBlockDevice/nbd>.

use std::io::{self, Read, Write};

use super::cache::Cache;

const GREETING: &[u8; 8] = b"NBDMAGIC";
const OPTION: &[u8; 8] = b"IHAVEOPT";
/// Fixed newstyle, and no zeroes after the answer to `EXPORT_NAME`.
const HANDSHAKE: u16 = 0b11;

/// Options.
const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const GO: u32 = 7;

/// Replies to options, and what precedes them.
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const ACK: u32 = 1;
const INFO: u32 = 3;
const UNSUPPORTED: u32 = (1 << 31) + 1;
/// What `INFO` tells: the export's size and flags.
const INFO_EXPORT: u16 = 0;

/// The export's flags: there are some, and it has flushes.
const FLAGS: u16 = 0b101;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Requests.
const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// Errors.
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// The most bytes of a request or an option; QEMU's requests have 32 MiB at most.
const MOST: u32 = 32 << 20;

/// Serves the disk until the client goes, in whatever way, and gives the KiB that were not flushed:
/// they are lost.
///
/// # Errors
/// The client does not keep to the protocol.
pub(super) fn serve(mut line: impl Read + Write, mut disk: Cache) -> io::Result<usize> {
    let gone = |error: &io::Error| {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
    };
    match talk(&mut line, &mut disk) {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(disk.unflushed()),
    }
}

fn talk(line: &mut (impl Read + Write), disk: &mut Cache) -> io::Result<()> {
    if negotiate(line, disk.bytes())? {
        while answer(line, disk)? {}
    }
    Ok(())
}

/// Negotiates until the client has its export, or does not want one.
fn negotiate(line: &mut (impl Read + Write), bytes: u64) -> io::Result<bool> {
    line.write_all(&[&GREETING[..], OPTION, &HANDSHAKE.to_be_bytes()].concat())?;
    let _flags: [u8; 4] = take(line)?;
    loop {
        if take(line)? != *OPTION {
            return Err(broken("no option"));
        }
        let option = u32::from_be_bytes(take(line)?);
        let _data = body(line)?;
        let export = [&bytes.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
        let mut reply = |kind: u32, data: &[u8]| {
            let len = u32::try_from(data.len()).unwrap_or_default();
            let head = [
                OPTION_REPLY.to_be_bytes().to_vec(),
                option.to_be_bytes().to_vec(),
            ];
            let tail = [kind.to_be_bytes().to_vec(), len.to_be_bytes().to_vec()];
            line.write_all(&[head.concat(), tail.concat(), data.to_vec()].concat())
        };
        match option {
            GO => {
                let info = [&INFO_EXPORT.to_be_bytes()[..], &export].concat();
                reply(INFO, &info)?;
                reply(ACK, &[])?;
                return Ok(true);
            }
            EXPORT_NAME => {
                line.write_all(&export)?;
                return Ok(true);
            }
            ABORT => {
                reply(ACK, &[])?;
                return Ok(false);
            }
            _ => reply(UNSUPPORTED, &[])?,
        }
    }
}

/// Answers a request; `false` if it was the last.
fn answer(line: &mut (impl Read + Write), disk: &mut Cache) -> io::Result<bool> {
    if u32::from_be_bytes(take(line)?) != REQUEST {
        return Err(broken("no request"));
    }
    let _flags: [u8; 2] = take(line)?;
    let kind = u16::from_be_bytes(take(line)?);
    let cookie: [u8; 8] = take(line)?;
    let offset = u64::from_be_bytes(take(line)?);
    let mut data = Vec::new();
    let done = match kind {
        READ => {
            data = vec![0; length(line)?];
            disk.read(offset, &mut data)
        }
        WRITE => {
            let written = body(line)?;
            disk.write(offset, &written)
        }
        FLUSH => {
            length(line)?;
            disk.flush()
        }
        DISCONNECT => return Ok(false),
        other => return Err(broken(&format!("request {other}"))),
    };
    let error = match &done {
        Ok(()) => 0,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => EINVAL,
        Err(_) => EIO,
    };
    if error != 0 {
        data.clear();
    }
    let head = [REPLY.to_be_bytes(), error.to_be_bytes()].concat();
    line.write_all(&[head, cookie.to_vec(), data].concat())?;
    Ok(true)
}

fn take<const N: usize>(line: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    line.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A length within reason.
fn length(line: &mut impl Read) -> io::Result<usize> {
    let length = u32::from_be_bytes(take(line)?);
    if length > MOST {
        return Err(broken("too long"));
    }
    Ok(length as usize)
}

/// A length and so many bytes.
fn body(line: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length(line)?];
    line.read_exact(&mut data)?;
    Ok(data)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("NBD: {what}"))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Cursor;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A client that has said all that it will say.
    struct Client {
        says: Cursor<Vec<u8>>,
        hears: Vec<u8>,
    }

    impl Read for Client {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.says.read(buffer)
        }
    }

    impl Write for Client {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.hears.extend_from_slice(buffer);
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn option(option: u32, data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).expect("short");
        [&OPTION[..], &option.to_be_bytes(), &len.to_be_bytes(), data].concat()
    }

    fn request(kind: u16, offset: u64, len: u32) -> Vec<u8> {
        let head = [&REQUEST.to_be_bytes()[..], &[0; 2], &kind.to_be_bytes()].concat();
        let tail = [&[9; 8][..], &offset.to_be_bytes(), &len.to_be_bytes()].concat();
        [head, tail].concat()
    }

    /// Serves a disk of 8 KiB to a client that says this; gives how it went, what the client heard,
    /// and the image.
    fn serve_to(name: &str, says: &[Vec<u8>]) -> (io::Result<usize>, Vec<u8>, Vec<u8>) {
        let path = std::env::temp_dir().join(format!("spindle-nbd-{name}-{}", std::process::id()));
        std::fs::write(&path, [0; 8192]).expect("an image");
        let image = File::options().read(true).write(true).open(&path);
        let disk = Cache::new(image.expect("an image")).expect("a disk");
        let mut client = Client {
            says: Cursor::new([&[0, 0, 0, 3][..], &says.concat()].concat()),
            hears: Vec::new(),
        };
        let served = serve(&mut client, disk);
        let mut image = vec![0; 8192];
        let file = File::open(&path).expect("the image");
        file.read_exact_at(&mut image, 0).expect("read");
        std::fs::remove_file(path).expect("removed");
        (served, client.hears, image)
    }

    #[test]
    fn what_was_flushed_is_in_the_image_when_the_client_dies_and_the_rest_is_lost() {
        let (served, hears, image) = serve_to(
            "flush",
            &[
                option(8, &[]),
                option(GO, b"\0\0\0\0\0\x01\0\x03"),
                [request(WRITE, 512, 4), b"kept".to_vec()].concat(),
                request(FLUSH, 0, 0),
                [request(WRITE, 4096, 4), b"lost".to_vec()].concat(),
                request(READ, 4095, 6),
                request(READ, 8191, 2),
                // Killed in the middle of a request.
                request(WRITE, 0, 4),
            ],
        );
        assert_eq!(served.expect("served"), 4);
        assert_eq!(&image[512..516], b"kept");
        assert_eq!(image[4096..4100], [0; 4]);
        let heard = |what: &[u8]| hears.windows(what.len()).any(|part| part == what);
        assert!(hears.starts_with(b"NBDMAGICIHAVEOPT\0\x03"));
        assert!(heard(&[&UNSUPPORTED.to_be_bytes()[..], &[0; 4]].concat()));
        assert!(heard(b"\0\0\0\0\0\0\0\0\x20\0\0\x05"));
        assert!(heard(b"\0lost\0"));
        assert!(heard(&[&EINVAL.to_be_bytes()[..], &[9; 8]].concat()));
    }

    #[test]
    fn a_client_that_disconnects_has_lost_the_same() {
        let write = [request(WRITE, 0, 4), b"lost".to_vec()].concat();
        let says = [
            option(EXPORT_NAME, b"disk"),
            write,
            request(DISCONNECT, 0, 0),
        ];
        let (served, _, image) = serve_to("disconnect", &says);
        assert_eq!((served.expect("served"), image[0]), (4, 0));
        let (served, _, _) = serve_to("abort", &[option(ABORT, &[])]);
        assert_eq!(served.expect("served"), 0);
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error() {
        let go = option(GO, &[]);
        for (name, says, why) in [
            ("option", b"NOOPTION".to_vec(), "no option"),
            ("magic", [go.clone(), vec![0; 28]].concat(), "no request"),
            (
                "kind",
                [go.clone(), request(77, 0, 0)].concat(),
                "request 77",
            ),
            (
                "length",
                [go, request(READ, 0, u32::MAX)].concat(),
                "too long",
            ),
        ] {
            let (served, _, _) = serve_to(name, &[says]);
            let error = served.expect_err("refused").to_string();
            assert!(error.contains(why), "{name}: {error}");
        }
    }
}
