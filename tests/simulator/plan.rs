//! What a seed's world is like: how large, and what goes wrong in it how often.
//!
//! A seed that has every fault at once hides what one fault does alone, so each has its faults by lot.

use crate::random::Random;

/// The plan of one world.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards of the deployment.
    pub shards: u16,
    /// Collectors.
    pub collectors: usize,
    /// Intakes; none: nobody publishes to INTAKE.
    pub intakes: usize,
    /// Requests of clients.
    pub sends: u64,
    /// Over how long they come, in milliseconds.
    pub span_ms: i64,
    /// The largest frame, in bytes: small ones make several flights of a lane.
    pub frame_max_bytes: usize,
    /// A message takes at most this long, in milliseconds.
    pub delay_ms: i64,
    /// Days pass, so that ids pass their horizon.
    pub has_days: bool,
    /// Of a thousand publishes: lost on their way.
    pub lost_request: u64,
    /// Of a thousand: stored, and the answer is lost.
    pub lost_ack: u64,
    /// Of a thousand: delivered a second time.
    pub duplicate: u64,
    /// Of a thousand messages: sequences are passed over before it.
    pub skip: u64,
    /// Of a thousand messages: a byte flips on the broker's disk.
    pub flip: u64,
    /// Of a thousand group commits: the sync takes long.
    pub slow_sync: u64,
    /// How long it is from one great fault to the next on average, in milliseconds.
    pub fault_every_ms: i64,
    /// Which great faults there are.
    pub faults: Vec<Fault>,
}

/// Something great that goes wrong, or that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    Kill,
    PowerLoss,
    Drain,
    Clone,
    BrokerKill,
    Election,
    StreamFull,
    Partition,
    ClockStep,
    ProjectorKill,
    ProjectorPowerLoss,
    Eviction,
    CatalogueChange,
    Resend,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::Drain,
    Fault::Clone,
    Fault::BrokerKill,
    Fault::Election,
    Fault::StreamFull,
    Fault::Partition,
    Fault::ClockStep,
    Fault::ProjectorKill,
    Fault::ProjectorPowerLoss,
    Fault::Eviction,
    Fault::CatalogueChange,
    Fault::Resend,
];

impl Plan {
    /// The plan of a seed's world.
    pub fn new(random: &mut Random) -> Self {
        let mut rate = |most: u64| match random.below(2) {
            0 => 0,
            _ => 1 + random.below(most),
        };
        let (lost_request, lost_ack, duplicate) = (rate(150), rate(150), rate(60));
        let (skip, flip, slow_sync) = (rate(100), rate(30), rate(400));
        let faults = FAULTS
            .into_iter()
            .filter(|_| random.permille(500))
            .collect();
        Self {
            shards: 1 + random.below(3) as u16,
            collectors: 1 + random.index(3),
            intakes: random.index(3),
            sends: 6 + random.below(15),
            span_ms: random.between(3_000, 25_000),
            frame_max_bytes: *random.pick(&[3_000, 3_600, 5_000, 512 << 10]),
            delay_ms: *random.pick(&[3, 30, 300]),
            has_days: random.permille(150),
            lost_request,
            lost_ack,
            duplicate,
            skip,
            flip: if random.permille(300) { flip } else { 0 },
            slow_sync,
            fault_every_ms: random.between(400, 4_000),
            faults,
        }
    }

    /// The same world when everything is well.
    pub fn healed(&self) -> Self {
        Self {
            lost_request: 0,
            lost_ack: 0,
            duplicate: 0,
            flip: 0,
            slow_sync: 0,
            faults: Vec::new(),
            ..self.clone()
        }
    }
}
