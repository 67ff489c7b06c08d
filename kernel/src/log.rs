//! The log: lines with a time stamp to the PV console and to port 0xE9, the debug console of Xen
//! and QEMU.
//!
//! Lines written before the console is known are kept and replayed. Under Xen, where each byte to
//! the port costs a trip to the hypervisor, only warnings and worse go there too, unless the
//! command line says `debug_port`. A console that is not read loses lines, and says how many.

// UNSAFETY: makes the accessor for I/O ports.
#![expect(unsafe_code)]

use alloc::string::String as Text;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use heapless::{String, Vec};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::{Mutex, Once};
use spindle_hw::{Clock, Ports, X86Ports};
use spindle_kept::LogTail;
use spindle_xen::console::ConsoleRing;
use spindle_xen::event::{Deadline, Notify, Port};

use crate::xen::{Events, Ring, sched, time};

const DEBUG_PORT: u16 = 0xe9;
const LINE_MAX: usize = 400;
/// How long one line waits for room in the console ring, once.
const PATIENCE_NS: u64 = 100_000_000;
/// How long the last messages wait for the console to be read.
const LAST_PATIENCE_NS: u64 = 300_000_000;

/// How lines of former lives begin.
const FORMER: &[u8] = b"former life: ";
/// How often there is another look for room for them.
const FORMER_NS: u64 = 10_000_000;

struct Console {
    ring: ConsoleRing,
    port: Port,
    events: Events,
}

/// What lines are formatted with; held while one is written.
struct Sink {
    early: Vec<u8, 4096>,
    lost: u32,
    /// The console was not read the last time we waited for it.
    stalled: bool,
}

static CONSOLE: Once<Console> = Once::new();
/// What the next life finds of the log. Appended to by whoever holds [`SINK`].
static TAIL: Once<LogTail> = Once::new();
static SINK: Mutex<Sink> = Mutex::new(Sink {
    early: Vec::new(),
    lost: 0,
    stalled: false,
});
/// Whether all lines go to the debug port.
static ALL_TO_PORT: AtomicBool = AtomicBool::new(false);

struct Logger;

/// Access to the I/O ports that the kernel itself uses.
pub(crate) fn ports() -> X86Ports {
    // SAFETY: we run at ring 0; the debug console and the interval timer write no memory, and
    // drivers reach configuration space only behind an IOMMU.
    unsafe { X86Ports::new() }
}

/// Takes over the `log` crate's macros. Lines are kept until a console is attached.
pub(crate) fn init() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Has the next life find the last lines from now on.
pub(crate) fn keep(tail: LogTail) {
    TAIL.call_once(|| tail);
}

/// Attaches xenconsoled's ring and replays what was written before.
pub(crate) fn attach_console(ring: Ring, events: Events) {
    let Ring { page, port } = ring;
    CONSOLE.call_once(|| Console {
        ring: ConsoleRing::new(page),
        port,
        events,
    });
    let mut sink = SINK.lock();
    let early = core::mem::take(&mut sink.early);
    sink.write_console(&early);
}

/// Sends all lines to the debug port from now on, beginning with those that no console got.
pub(crate) fn use_debug_port() {
    ALL_TO_PORT.store(true, Relaxed);
    let mut sink = SINK.lock();
    to_port(&sink.early);
    if CONSOLE.get().is_none() {
        sink.early.clear();
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut line = Line(String::new());
        let at = time::uptime_ns();
        let mark = match record.level() {
            Level::Error => "ERROR: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        let (seconds, millis) = (at / 1_000_000_000, at / 1_000_000 % 1000);
        // Writing to `Line` cannot fail: it cuts off.
        let _ = write!(line, "[{seconds:5}.{millis:03}] {mark}{}", record.args());
        line.end();
        let bytes = line.0.as_bytes();
        let mut sink = SINK.lock();
        if let Some(tail) = TAIL.get() {
            tail.append(bytes);
        }
        if CONSOLE.get().is_some() {
            sink.write_console(bytes);
        } else if !ALL_TO_PORT.load(Relaxed) && sink.early.extend_from_slice(bytes).is_err() {
            sink.lost += 1;
        }
        if ALL_TO_PORT.load(Relaxed) || record.level() <= Level::Warn {
            to_port(bytes);
        }
    }

    fn flush(&self) {}
}

impl Sink {
    /// Writes whole lines or, if no room is made for them, none.
    fn write_console(&mut self, bytes: &[u8]) {
        let Some(console) = CONSOLE.get() else {
            return;
        };
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            // Room for this line, its carriage return, and a note about lost ones.
            let needed = line.len() + 48;
            if console.ring.room() < needed && !self.stalled {
                self.stalled = !console.wait(PATIENCE_NS, || console.ring.room() >= needed);
            }
            if console.ring.room() < needed {
                self.lost = self.lost.saturating_add(1);
                continue;
            }
            self.stalled = false;
            if self.lost > 0 {
                let _ = writeln!(console.writer(), "[{} lines lost]\r", self.lost);
                self.lost = 0;
            }
            let _ = console.writer().write_bytes(line);
        }
        console.events.notify(console.port);
    }
}

impl Console {
    /// Sleeps until `done` or for `patience_ns`; true if it is done.
    fn wait(&self, patience_ns: u64, done: impl Fn() -> bool) -> bool {
        let Some(clock) = time::clock() else {
            return done();
        };
        self.events.notify(self.port);
        let deadline = clock.now_ns() + patience_ns;
        while !done() {
            let now = clock.now_ns();
            if now >= deadline {
                return false;
            }
            self.events.take_pending(self.port);
            if !done() && sched::poll(&[self.port], Deadline::new(now, deadline)).is_err() {
                return false;
            }
        }
        true
    }

    fn writer(&self) -> ConsoleWriter<'_> {
        ConsoleWriter(&self.ring)
    }
}

/// Writes to the ring with a carriage return before each line feed.
struct ConsoleWriter<'a>(&'a ConsoleRing);

impl ConsoleWriter<'_> {
    fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(text) => {
                    self.0.write(text);
                    self.0.write(b"\r\n");
                }
                None => {
                    self.0.write(part);
                }
            }
        }
        Ok(())
    }
}

impl Write for ConsoleWriter<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_bytes(s.as_bytes())
    }
}

/// The last lines of the log of former lives, which go to the console as it has room for them: nothing
/// waits for that, and no line goes into the tail again.
#[derive(Debug, Default)]
pub(crate) struct FormerLog {
    text: Text,
    at: usize,
    next_ns: u64,
}

impl FormerLog {
    pub(crate) fn new(text: Text) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    /// Writes what there is room for, now and then until all is written.
    #[inline]
    pub(crate) fn turn(&mut self, now_ns: u64) {
        if now_ns >= self.next_ns {
            self.write(now_ns);
        }
    }

    #[cold]
    fn write(&mut self, now_ns: u64) {
        let _sink = SINK.lock();
        self.next_ns = now_ns.saturating_add(FORMER_NS);
        let (Some(console), Some(rest)) = (CONSOLE.get(), self.text.get(self.at..)) else {
            self.next_ns = u64::MAX;
            return;
        };
        let mut next = rest.split_inclusive('\n').peekable();
        while let Some(line) = next.next_if(|line| console.ring.room() > FORMER.len() + line.len())
        {
            let mut writer = console.writer();
            let _ = writer.write_bytes(FORMER);
            let _ = writer.write_bytes(line.as_bytes());
            self.at += line.len();
        }
        if next.peek().is_none() {
            if let Some(tail) = TAIL.get() {
                tail.seen();
            }
            *self = Self {
                next_ns: u64::MAX,
                ..Self::default()
            };
        }
        console.events.notify(console.port);
    }
}

/// A line that is cut off rather than refused.
struct Line(String<LINE_MAX>);

impl Line {
    fn end(&mut self) {
        if self.0.push('\n').is_err() {
            self.0.pop();
            let _ = self.0.push('\n');
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for c in s.chars() {
            if self.0.push(c).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn to_port(bytes: &[u8]) {
    let ports = ports();
    bytes.iter().for_each(|b| ports.out8(DEBUG_PORT, *b));
}

/// The way out for last words: takes no lock, so that it works wherever we died, and writes to
/// both consoles.
pub(crate) struct LastWords {
    /// Guests wait for the next life, which says how this one ended on the debug port, too, where each
    /// byte is a trip to the hypervisor.
    hurry: bool,
}

impl LastWords {
    /// Begins, with the lines that no console got yet if they can be had. To `hurry`, what the console has
    /// no room for is left out, and the port gets nothing, if there is a console.
    pub(crate) fn begin(hurry: bool) -> Self {
        if CONSOLE.get().is_none()
            && !ALL_TO_PORT.load(Relaxed)
            && let Some(sink) = SINK.try_lock()
        {
            to_port(&sink.early);
        }
        let hurry = hurry && CONSOLE.get().is_some();
        Self { hurry }
    }

    /// Gives xenconsoled a moment to read.
    pub(crate) fn end(self) {
        if let Some(console) = CONSOLE.get() {
            console.wait(LAST_PATIENCE_NS, || console.ring.unread() == 0);
        }
    }
}

impl Write for LastWords {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        if !self.hurry {
            to_port(s.as_bytes());
        }
        if let Some(console) = CONSOLE.get() {
            for line in s.split_inclusive('\n') {
                if !self.hurry && console.ring.room() < line.len() + 1 {
                    console.wait(PATIENCE_NS, || console.ring.room() > line.len());
                }
                let _ = console.writer().write_bytes(line.as_bytes());
            }
        }
        Ok(())
    }
}
