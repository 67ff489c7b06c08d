//! A disk that says that it has read, without having written anything (a fault, or malice), shows no
//! guest what another had in the shared buffers.

use spindle_blkif::abi::{Abi, Operation};
use spindle_blkif::{Attachment, Config, Gate, RingCore, Session};
use spindle_block::{Command, DiskQueue, IoResult, SubmitError, Tag, Unit, Volume};
use spindle_hw::DmaAlloc;
use spindle_testkit::blkfront::{Blkfront, fill};
use spindle_testkit::grants::{FakeEvents, FakeGrants};
use spindle_testkit::mem::{FakeBus, journal};
use spindle_xen::DomId;
use spindle_xen::event::Port;
use std::collections::VecDeque;

#[derive(Default)]
struct Nothing(VecDeque<Tag>);
impl DiskQueue for Nothing {
    fn submit(&mut self, _: &Command<'_>, tag: Tag) -> Result<(), SubmitError> {
        self.0.push_back(tag);
        Ok(())
    }
    fn commit(&mut self) {}
    fn poll(&mut self, mut done: impl FnMut(Tag, IoResult)) -> usize {
        let n = self.0.len();
        while let Some(tag) = self.0.pop_front() {
            done(tag, Ok(()));
        }
        n
    }
    fn in_flight(&self) -> usize {
        self.0.len()
    }
    fn fail_all(&mut self, _: impl FnMut(Tag, IoResult)) {}
}

#[test]
fn what_a_disk_did_not_read_is_not_another_guests_data() {
    let bus: &'static FakeBus = Box::leak(Box::new(FakeBus::new()));
    let grants: &'static FakeGrants<'static> = Box::leak(Box::new(FakeGrants::new(bus)));
    let events: &'static FakeEvents = Box::leak(Box::default());
    let mut core = RingCore::new(
        Config::default(),
        vec![Nothing::default()],
        grants,
        events,
        bus.alloc(16).unwrap(),
    )
    .unwrap();
    let mut fronts: Vec<Blkfront<'static>> = (1..=2u16)
        .map(|dom| {
            let front = Blkfront::new(grants, DomId(dom), 1, 0);
            let volume = Volume {
                name: "v".into(),
                aliases: vec![],
                disk: 0,
                unit: Unit(1),
                start: u64::from(dom) * 100,
                sectors: 64,
                block_shift: 9,
                physical_block_shift: 9,
                read_only: false,
                write_cache: false,
                discard: None,
                description: String::new(),
                map: None,
            };
            let attachment = Attachment {
                domain: DomId(dom),
                port: Port(dom.into()),
                volume,
                abi: Abi::Native,
                start: 0,
                window: None,
                persistent: false,
                indirect_segments: 0,
                gate: Gate::members(1).remove(0),
                claims: None,
                losses: Default::default(),
                journal: journal(&front.ring()),
            };
            core.attach(Session::new(front.ring(), attachment).unwrap())
                .unwrap();
            front
        })
        .collect();
    let secret = fronts[0].page(false);
    fill(&secret.memory, 4711);
    fronts[0].push(Operation::WRITE, 0, &[secret.segment(0, 7)]);
    fronts[0].publish();
    for _ in 0..4 {
        core.visit(0);
    }
    assert_eq!(fronts[0].answers().len(), 1);
    let got = fronts[1].page(false);
    fronts[1].push(Operation::READ, 0, &[got.segment(0, 7)]);
    fronts[1].publish();
    for _ in 0..4 {
        core.visit(0);
    }
    assert_eq!(fronts[1].answers().len(), 1);
    let (mut a, mut b) = ([0u8; 4096], [0u8; 4096]);
    secret.memory.read_bytes(0, &mut a);
    got.memory.read_bytes(0, &mut b);
    assert!(
        a != b,
        "guest 2 read guest 1's page out of the shared buffers"
    );
}
