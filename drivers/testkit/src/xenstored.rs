//! The xenstore daemon in memory, at the other end of the real ring page, with a toolstack's and
//! a frontend's usual steps as helpers.
//!
//! Tree, permissions, transactions that conflict as xenstored's do, and watches for the one
//! domain that is connected. Tests act on the tree directly, as dom0 or as a guest would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem::take;
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use spindle_hw::SharedPages;
use spindle_xen::store::wire::{self, Assembler, MessageType};

const RING: u32 = 1024;
/// Bytes that a value may have: a little less than the default quota for a whole node.
const NODE_MAX: usize = 2000;
const REQ_CONS: usize = 2048;
const REQ_PROD: usize = 2052;
const RSP_CONS: usize = 2056;
const RSP_PROD: usize = 2060;

/// Who may do what with a node: the owner may do all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms {
    /// The owner.
    pub owner: u16,
    /// Others who may read.
    pub readers: Vec<u16>,
    /// Others who may write.
    pub writers: Vec<u16>,
}

#[derive(Clone, Debug)]
struct Node {
    value: Vec<u8>,
    perms: Perms,
}

/// Each transaction has its own, most of which is the same.
type Tree = BTreeMap<Arc<str>, Arc<Node>>;
type Outcome = Result<Vec<u8>, &'static str>;

#[derive(Debug)]
struct Transaction {
    tree: Tree,
    started: u64,
    accessed: BTreeSet<String>,
    changes: Vec<(String, Option<Vec<u8>>)>,
}

/// The daemon.
#[derive(Debug)]
pub struct Xenstored {
    page: SharedPages,
    client: u16,
    tree: Tree,
    /// When each path last changed, for conflicts.
    changed: BTreeMap<String, u64>,
    clock: u64,
    watches: Vec<(String, Vec<u8>, bool)>,
    transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    input: Assembler,
    output: VecDeque<u8>,
    /// Messages that are on their way, and when they get there.
    held: VecDeque<(u64, Vec<u8>)>,
    now: u64,
    busy_until: u64,
    latency: u64,
    cost: u64,
    chunk: usize,
    conflicts: usize,
    write_errors: BTreeMap<String, &'static str>,
    watch_errors: BTreeMap<String, &'static str>,
    quota: usize,
    watch_quota: usize,
    transaction_quota: usize,
    /// How often the client has written each path.
    written: BTreeMap<String, usize>,
    /// Requests that the client has made.
    requests: usize,
}

impl Xenstored {
    /// A daemon whose client is domain `client`, reached through `page`.
    #[must_use]
    pub fn new(page: SharedPages, client: u16) -> Self {
        let mut daemon = Self {
            page,
            client,
            tree: Tree::new(),
            changed: BTreeMap::new(),
            clock: 0,
            watches: Vec::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            input: Assembler::default(),
            output: VecDeque::new(),
            held: VecDeque::new(),
            now: 0,
            busy_until: 0,
            latency: 0,
            cost: 0,
            chunk: usize::MAX,
            conflicts: 0,
            write_errors: BTreeMap::new(),
            watch_errors: BTreeMap::new(),
            quota: 1000,
            watch_quota: 128,
            transaction_quota: 10,
            written: BTreeMap::new(),
            requests: 0,
        };
        let home = format!("/local/domain/{client}");
        daemon.make(&home, b"", 0, &[client]);
        for open in ["data", "error", "control", "control/shutdown"] {
            daemon.make(&format!("{home}/{open}"), b"", client, &[]);
        }
        daemon
    }

    /// Moves at most `bytes` in each direction per [`Xenstored::step`].
    pub fn set_chunk(&mut self, bytes: usize) {
        self.chunk = bytes;
    }

    /// Plays a daemon on a busy machine: every message to the client takes `latency` ns, and every
    /// request `cost` ns of the daemon's time, one after the other.
    pub fn set_pace(&mut self, latency: u64, cost: u64) {
        (self.latency, self.cost) = (latency, cost);
    }

    /// Tells the daemon the time, in ns, which never goes back.
    pub fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// When the next message gets to the client, if any is on its way.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.held.front().map(|(due, _)| *due)
    }

    /// Makes the next `count` commits fail with `EAGAIN`.
    pub fn force_conflicts(&mut self, count: usize) {
        self.conflicts = count;
    }

    /// Answers the client's writes and removals of `path` with `error` from now on; `None` ends
    /// that.
    pub fn fail_writes(&mut self, path: &str, error: Option<&'static str>) {
        match error {
            Some(error) => self.write_errors.insert(path.into(), error),
            None => self.write_errors.remove(path),
        };
    }

    /// Answers the client's requests to watch `path` with `error` from now on; `None` ends that.
    pub fn fail_watches(&mut self, path: &str, error: Option<&'static str>) {
        match error {
            Some(error) => self.watch_errors.insert(path.into(), error),
            None => self.watch_errors.remove(path),
        };
    }

    /// Nodes that the client may own.
    pub fn set_quota(&mut self, nodes: usize) {
        self.quota = nodes;
    }

    /// Watches that the client may have.
    pub fn set_watch_quota(&mut self, watches: usize) {
        self.watch_quota = watches;
    }

    /// Transactions that the client may have.
    pub fn set_transaction_quota(&mut self, transactions: usize) {
        self.transaction_quota = transactions;
    }

    /// How often the client has written `path`; what a transaction wrote counts when it commits.
    #[must_use]
    pub fn writes(&self, path: &str) -> usize {
        self.written.get(path).copied().unwrap_or(0)
    }

    /// Requests that the client has made so far, of any kind.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Changes of the tree so far, of any kind.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.clock
    }

    /// Watches the client has.
    #[must_use]
    pub fn watch_count(&self) -> usize {
        self.watches.len()
    }

    /// What the client watches.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        self.watches.iter().map(|(path, ..)| path.as_str())
    }

    /// Transactions the client has open.
    #[must_use]
    pub fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Nodes the client owns.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.tree
            .values()
            .filter(|node| node.perms.owner == self.client)
            .count()
    }

    /// Makes a node as dom0 would, owned by `owner` and readable by `readers`.
    pub fn make(&mut self, path: &str, value: &[u8], owner: u16, readers: &[u16]) {
        let perms = Perms {
            owner,
            readers: readers.to_vec(),
            writers: Vec::new(),
        };
        let value = value.to_vec();
        insert(&mut self.tree, path, Node { value, perms });
        self.touched(path);
    }

    /// Sets a value as dom0 or the owner would; a new node has its parent's permissions.
    pub fn write(&mut self, path: &str, value: impl AsRef<[u8]>) {
        put(&mut self.tree, path, value.as_ref(), 0);
        self.touched(path);
    }

    /// The value at `path`.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        self.tree.get(path).map(|node| node.value.as_slice())
    }

    /// The value at `path`, if it is text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        core::str::from_utf8(self.read(path)?).ok()
    }

    /// The names of a node's children, in order.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<String> {
        names(&self.tree, path).map(String::from).collect()
    }

    /// Removes `path` and all below.
    pub fn remove(&mut self, path: &str) {
        let gone = subtree(&self.tree, path);
        let visible = gone
            .iter()
            .filter(|at| may_read(&self.tree, at, self.client));
        let visible: Vec<Arc<str>> = visible.cloned().collect();
        gone.iter().for_each(|at| drop(self.tree.remove(at)));
        for at in gone {
            self.clock += 1;
            self.changed.insert(at.to_string(), self.clock);
            // Below the node removed, only exact watches fire.
            let exact = *at != *path;
            if visible.contains(&at) {
                self.fire(&at, exact);
            }
        }
    }

    /// Ends the client's watches and transactions.
    pub fn reset_client(&mut self) {
        self.watches.clear();
        self.transactions.clear();
    }

    /// Sends a watch event out of nowhere.
    pub fn inject_event(&mut self, path: &[u8], token: &[u8]) {
        self.send(MessageType::WATCH_EVENT, 0, 0, &[path, b"\0", token, b"\0"]);
    }

    /// Sends bytes that are no message.
    pub fn inject_bytes(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
    }

    /// Bytes waiting to go to the client.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.output.len()
    }

    /// Takes what the client wrote, answers, and sends what fits; true if anything moved.
    pub fn step(&mut self) -> bool {
        let mut moved = 0;
        loop {
            if let Ok(Some((header, payload))) = self.input.take() {
                self.handle(header, &payload);
                continue;
            }
            let mut bytes = [0; 512];
            let wanted = self.input.wanted().expect("the client sends sound headers");
            let want = wanted.min(bytes.len()).min(self.chunk - moved);
            let got = self.pull(&mut bytes[..want]);
            if got == 0 {
                break;
            }
            self.input.push(&bytes[..got]);
            moved += got;
        }
        while let Some((_, message)) = self.held.pop_front_if(|(due, _)| *due <= self.now) {
            self.output.extend(message);
        }
        moved + self.push() > 0
    }

    fn pull(&mut self, out: &mut [u8]) -> usize {
        let producer = self.page.u32_at(REQ_PROD).load(Acquire);
        let mut consumer = self.page.u32_at(REQ_CONS).load(Acquire);
        let count = (producer.wrapping_sub(consumer) as usize).min(out.len());
        let mut left = &mut out[..count];
        while !left.is_empty() {
            let at = (consumer % RING) as usize;
            let (piece, rest) = left.split_at_mut(left.len().min(RING as usize - at));
            self.page.read_bytes(at, piece);
            consumer = consumer.wrapping_add(piece.len() as u32);
            left = rest;
        }
        self.page.u32_at(REQ_CONS).store(consumer, Release);
        count
    }

    fn push(&mut self) -> usize {
        let mut producer = self.page.u32_at(RSP_PROD).load(Acquire);
        let consumer = self.page.u32_at(RSP_CONS).load(Acquire);
        let room = (RING - producer.wrapping_sub(consumer)) as usize;
        let count = room.min(self.output.len()).min(self.chunk);
        let bytes: Vec<u8> = self.output.drain(..count).collect();
        let mut left = &*bytes;
        while !left.is_empty() {
            let at = (producer % RING) as usize;
            let (piece, rest) = left.split_at(left.len().min(RING as usize - at));
            self.page.write_bytes(RING as usize + at, piece);
            producer = producer.wrapping_add(piece.len() as u32);
            left = rest;
        }
        self.page.u32_at(RSP_PROD).store(producer, Release);
        count
    }

    fn send(&mut self, message: MessageType, request: u32, transaction: u32, parts: &[&[u8]]) {
        let mut out = Vec::new();
        if !wire::encode(&mut out, message, request, transaction, parts) {
            return;
        }
        let due = self.busy_until.max(self.now) + self.latency;
        if due > self.now {
            self.held.push_back((due, out));
        } else {
            self.output.extend(out);
        }
    }

    fn touched(&mut self, path: &str) {
        self.clock += 1;
        self.changed.insert(path.into(), self.clock);
        if may_read(&self.tree, path, self.client) {
            self.fire(path, false);
        }
    }

    fn wrote(&mut self, path: &str) {
        *self.written.entry(path.into()).or_default() += 1;
        self.touched(path);
    }

    fn fire(&mut self, path: &str, exact: bool) {
        let watches = take(&mut self.watches);
        for (watched, token, relative) in &watches {
            let below = path.strip_prefix(&**watched);
            let below = below.is_some_and(|rest| rest.starts_with('/'));
            if path == watched || (below && !exact) {
                let home = format!("/local/domain/{}/", self.client);
                let shown = match relative {
                    true => path.strip_prefix(&home).unwrap_or(path),
                    false => path,
                };
                self.inject_event(shown.as_bytes(), token);
            }
        }
        self.watches = watches;
    }

    fn handle(&mut self, header: wire::Header, payload: &[u8]) {
        self.requests += 1;
        self.busy_until = self.busy_until.max(self.now) + self.cost;
        let outcome = self.execute(header.message, header.transaction, payload);
        let (message, body) = match &outcome {
            Ok(body) => (header.message, body.as_slice()),
            Err(name) => (MessageType::ERROR, name.as_bytes()),
        };
        let end: &[u8] = if outcome.is_err() { b"\0" } else { b"" };
        self.send(message, header.request, header.transaction, &[body, end]);
        if header.message == MessageType::WATCH && outcome.is_ok() {
            let parts: Vec<&[u8]> = wire::strings(payload).collect();
            self.inject_event(parts[0], parts[1]);
        }
    }

    fn execute(&mut self, message: MessageType, id: u32, payload: &[u8]) -> Outcome {
        let cut = payload.iter().position(|&byte| byte == 0).ok_or("EINVAL")?;
        let given = core::str::from_utf8(&payload[..cut]).map_err(|_| "EINVAL")?;
        let rest = &payload[cut + 1..];
        match message {
            MessageType::TRANSACTION_START => return self.start(),
            MessageType::TRANSACTION_END => return self.end(id, given == "T"),
            MessageType::RESET_WATCHES => {
                self.reset_client();
                return Ok(b"OK\0".to_vec());
            }
            _ => {}
        }
        let relative = !given.starts_with('/');
        let path = if relative {
            format!("/local/domain/{}/{given}", self.client)
        } else {
            given.into()
        };
        let limit = if relative {
            wire::REL_PATH_MAX
        } else {
            wire::ABS_PATH_MAX
        };
        if given.is_empty() || given.len() > limit {
            return Err("EINVAL");
        }
        let token = rest.strip_suffix(b"\0").unwrap_or(rest);
        match message {
            MessageType::WATCH => {
                if self
                    .watches
                    .iter()
                    .any(|(p, t, _)| *p == path && t == token)
                {
                    return Err("EEXIST");
                }
                if let Some(error) = self.watch_errors.get(&path) {
                    return Err(error);
                }
                if self.watches.len() >= self.watch_quota {
                    return Err("E2BIG");
                }
                self.watches.push((path, token.to_vec(), relative));
                Ok(b"OK\0".to_vec())
            }
            MessageType::UNWATCH => {
                let before = self.watches.len();
                self.watches.retain(|(p, t, _)| *p != path || t != token);
                if self.watches.len() == before {
                    Err("ENOENT")
                } else {
                    Ok(b"OK\0".to_vec())
                }
            }
            _ if id == 0 => self.access(message, &path, rest),
            _ => {
                let mut transaction = self.transactions.remove(&id).ok_or("ENOENT")?;
                core::mem::swap(&mut self.tree, &mut transaction.tree);
                transaction.accessed.insert(path.clone());
                let outcome = self.access_in(message, &path, rest, Some(&mut transaction));
                core::mem::swap(&mut self.tree, &mut transaction.tree);
                self.transactions.insert(id, transaction);
                outcome
            }
        }
    }

    fn start(&mut self) -> Outcome {
        if self.transactions.len() >= self.transaction_quota {
            return Err("ENOSPC");
        }
        let id = self.next_transaction;
        self.next_transaction += 1;
        self.transactions.insert(
            id,
            Transaction {
                tree: self.tree.clone(),
                started: self.clock,
                accessed: BTreeSet::new(),
                changes: Vec::new(),
            },
        );
        Ok(format!("{id}\0").into_bytes())
    }

    fn end(&mut self, id: u32, keep: bool) -> Outcome {
        let transaction = self.transactions.remove(&id).ok_or("ENOENT")?;
        if !keep {
            return Ok(b"OK\0".to_vec());
        }
        let stale = |path: &String| {
            self.changed
                .get(path)
                .is_some_and(|at| *at > transaction.started)
        };
        if self.conflicts > 0 || transaction.accessed.iter().any(stale) {
            self.conflicts = self.conflicts.saturating_sub(1);
            return Err("EAGAIN");
        }
        for (path, value) in transaction.changes {
            match value {
                Some(value) => {
                    put(&mut self.tree, &path, &value, self.client);
                    self.wrote(&path);
                }
                None => self.remove(&path),
            }
        }
        Ok(b"OK\0".to_vec())
    }

    fn access(&mut self, message: MessageType, path: &str, rest: &[u8]) -> Outcome {
        self.access_in(message, path, rest, None)
    }

    fn access_in(
        &mut self,
        message: MessageType,
        path: &str,
        rest: &[u8],
        transaction: Option<&mut Transaction>,
    ) -> Outcome {
        let known = self.tree.get(path);
        match message {
            MessageType::READ | MessageType::DIRECTORY => {
                let node = known.ok_or("ENOENT")?;
                if !may_read(&self.tree, path, self.client) {
                    return Err("EACCES");
                }
                if message == MessageType::READ {
                    return Ok(node.value.clone());
                }
                let names = names(&self.tree, path);
                Ok(names.flat_map(|name| name.bytes().chain([0])).collect())
            }
            MessageType::WRITE => {
                if let Some(error) = self.write_errors.get(path) {
                    return Err(error);
                }
                if !may_write(&self.tree, path, self.client) {
                    return Err("EACCES");
                }
                if rest.len() > NODE_MAX || known.is_none() && self.owned() >= self.quota {
                    return Err("ENOSPC");
                }
                put(&mut self.tree, path, rest, self.client);
                match transaction {
                    Some(open) => open.changes.push((path.into(), Some(rest.to_vec()))),
                    None => self.wrote(path),
                }
                Ok(b"OK\0".to_vec())
            }
            MessageType::RM => {
                if known.is_none() {
                    return Err("ENOENT");
                }
                if let Some(error) = self.write_errors.get(path) {
                    return Err(error);
                }
                if !may_write(&self.tree, path, self.client) {
                    return Err("EACCES");
                }
                match transaction {
                    Some(open) => {
                        let gone = subtree(&self.tree, path);
                        gone.iter().for_each(|at| drop(self.tree.remove(at)));
                        open.changes.push((path.into(), None));
                    }
                    None => self.remove(path),
                }
                Ok(b"OK\0".to_vec())
            }
            _ => Err("ENOSYS"),
        }
    }
}

/// What is at and below `path`, in order.
fn below<'a>(tree: &'a Tree, path: &'a str) -> impl Iterator<Item = &'a Arc<str>> {
    let from = tree.range::<str, _>((Included(path), Unbounded));
    let same = from
        .map(|(at, _)| at)
        .take_while(move |at| at.starts_with(path));
    // Others may begin with the same letters.
    same.filter(move |at| matches!(at.as_bytes().get(path.len()), None | Some(b'/')))
}

fn subtree(tree: &Tree, path: &str) -> Vec<Arc<str>> {
    below(tree, path).cloned().collect()
}

/// The names of a node's children, in order.
fn names<'a>(tree: &'a Tree, path: &'a str) -> impl Iterator<Item = &'a str> {
    let names = below(tree, path).filter_map(move |at| at.get(path.len() + 1..));
    names.filter(|name| !name.contains('/'))
}

fn insert(tree: &mut Tree, path: &str, node: Node) {
    tree.insert(path.into(), Arc::new(node));
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/')
        .map(|(parent, _)| parent)
        .filter(|parent| !parent.is_empty())
}

/// The node's permissions, or those it would inherit.
fn perms<'a>(tree: &'a Tree, path: &str) -> Option<&'a Perms> {
    tree.get(path)
        .map(|node| &node.perms)
        .or_else(|| perms(tree, parent(path)?))
}

fn may_read(tree: &Tree, path: &str, domain: u16) -> bool {
    domain == 0
        || perms(tree, path).is_some_and(|p| p.owner == domain || p.readers.contains(&domain))
}

fn may_write(tree: &Tree, path: &str, domain: u16) -> bool {
    domain == 0
        || perms(tree, path).is_some_and(|p| p.owner == domain || p.writers.contains(&domain))
}

fn put(tree: &mut Tree, path: &str, value: &[u8], by: u16) {
    if let Some(node) = tree.get_mut(path) {
        Arc::make_mut(node).value = value.to_vec();
        return;
    }
    let mut perms = perms(tree, path).cloned().unwrap_or(Perms {
        owner: by,
        readers: Vec::new(),
        writers: Vec::new(),
    });
    if by != 0 {
        perms.owner = by;
    }
    let mut missing = parent(path);
    while let Some(at) = missing.filter(|at| !tree.contains_key(*at)) {
        let node = Node {
            value: Vec::new(),
            perms: perms.clone(),
        };
        insert(tree, at, node);
        missing = parent(at);
    }
    let value = value.to_vec();
    insert(tree, path, Node { value, perms });
}

/// One block device between the client of the daemon and a guest, as libxl and the guest handle
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vbd {
    /// The driver domain.
    pub backend: u16,
    /// The guest.
    pub frontend: u16,
    /// The device number.
    pub device: u32,
}

impl Vbd {
    /// `/local/domain/<be>/backend/vbd/<fe>/<dev>/<leaf>`.
    #[must_use]
    pub fn back(&self, leaf: &str) -> String {
        format!("{}/{leaf}", self.back_dir())
    }

    /// `/local/domain/<fe>/device/vbd/<dev>/<leaf>`.
    #[must_use]
    pub fn front(&self, leaf: &str) -> String {
        format!("{}/{leaf}", self.front_dir())
    }

    /// The backend's directory.
    #[must_use]
    pub fn back_dir(&self) -> String {
        format!(
            "/local/domain/{}/backend/vbd/{}/{}",
            self.backend, self.frontend, self.device
        )
    }

    /// The frontend's directory.
    #[must_use]
    pub fn front_dir(&self) -> String {
        format!("/local/domain/{}/device/vbd/{}", self.frontend, self.device)
    }

    /// Creates both directories as libxl's `device_disk_add` does.
    pub fn attach(&self, store: &mut Xenstored, params: &str, mode: &str) {
        let (be, fe) = (self.backend, self.frontend);
        let mut at = format!("/local/domain/{be}");
        for part in ["backend", "vbd", &fe.to_string()] {
            at = format!("{at}/{part}");
            if store.read(&at).is_none() {
                store.make(&at, b"", 0, &[be]);
            }
        }
        store.make(&format!("/local/domain/{fe}"), b"", fe, &[]);
        store.make(&self.front_dir(), b"", fe, &[be]);
        for (leaf, value) in [
            ("backend", self.back_dir()),
            ("backend-id", be.to_string()),
            ("state", "1".into()),
            ("virtual-device", self.device.to_string()),
            ("device-type", "disk".into()),
        ] {
            store.make(&self.front(leaf), value.as_bytes(), fe, &[be]);
        }
        // The events of a transaction come when all of it is there.
        let perms = Perms {
            owner: be,
            readers: vec![fe],
            writers: Vec::new(),
        };
        let value = Vec::new();
        insert(&mut store.tree, &self.back_dir(), Node { value, perms });
        for (leaf, value) in [
            ("frontend", self.front_dir().as_str()),
            ("params", params),
            ("script", "/etc/xen/scripts/block"),
            ("frontend-id", &fe.to_string()),
            ("online", "1"),
            ("removable", "0"),
            ("bootable", "1"),
            ("state", "1"),
            ("dev", "xvda"),
            ("type", "phy"),
            ("mode", mode),
            ("device-type", "disk"),
            ("discard-enable", if mode == "r" { "0" } else { "1" }),
            ("specification", "xen"),
        ] {
            store.make(&self.back(leaf), value.as_bytes(), be, &[fe]);
        }
    }

    /// The first step of `xl block-detach`: asks the backend to close.
    pub fn detach(&self, store: &mut Xenstored) {
        let Some(state) = store.text(&self.back("state")).map(str::to_owned) else {
            return;
        };
        store.write(&self.back("online"), "0");
        if state != "6" {
            store.write(&self.back("state"), "5");
        }
    }

    /// The first step of `xl destroy`: the frontend's directory goes, then as [`Vbd::detach`].
    pub fn destroy(&self, store: &mut Xenstored) {
        store.remove(&self.front_dir());
        self.detach(store);
    }

    /// The backend's state, 0 if there is none.
    #[must_use]
    pub fn back_state(&self, store: &Xenstored) -> u32 {
        store
            .text(&self.back("state"))
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }

    /// The frontend changes its state; only if its directory is still there.
    pub fn set_front_state(&self, store: &mut Xenstored, state: u32) {
        if store.read(&self.front_dir()).is_some() {
            store.write(&self.front("state"), state.to_string());
        }
    }

    /// The frontend publishes a single ring and goes to Initialised.
    pub fn front_initialise(&self, store: &mut Xenstored) {
        if store.read(&self.front_dir()).is_none() {
            return;
        }
        for (leaf, value) in [
            ("ring-ref", "8"),
            ("event-channel", "13"),
            ("protocol", "x86_64-abi"),
            ("feature-persistent", "1"),
        ] {
            store.write(&self.front(leaf), value);
        }
        self.set_front_state(store, 3);
    }
}
