use std::collections::BTreeMap;

use super::*;

fn moment(ms: u64) -> Moment {
    Moment::at(Duration::from_millis(ms))
}

fn election(name: &str) -> Election {
    Election::new(name.into(), fastrand::Rng::with_seed(7))
}

fn record(holder: &str, version: u64) -> Record {
    Record {
        version: version.to_string().into(),
        holder: holder.into(),
        duration: DURATION,
        acquired: "T".into(),
        renewed: version.to_string().into(),
        transitions: 3,
        published: "".into(),
    }
}

#[test]
fn missing_lease_is_made_and_ours() {
    let mut one = election("one");
    assert_eq!(one.step(moment(0)), Step::Read);
    one.read(None, moment(0));
    let Step::Create(claim) = one.step(moment(0)) else { panic!() };
    assert_eq!((&*claim.holder, claim.is_new, claim.transitions), ("one", true, 0));
    assert!(!one.leads(moment(0)));
    one.written(record("one", 1), moment(100), moment(900));
    assert!(one.leads(moment(10_099)));
    assert!(!one.leads(moment(10_100)), "the deadline counts from when the request was sent");
}

#[test]
fn lease_of_another_is_left_alone_until_it_was_silent_for_its_duration() {
    let mut one = election("one");
    one.read(Some(record("two", 1)), moment(0));
    let mut now = moment(0);
    while now < moment(15_000) {
        let Step::Wait(until) = one.step(now) else { panic!("at {now:?}") };
        now = until;
        assert_eq!(one.step(now), Step::Read);
        one.read(Some(record("two", 1)), now);
    }
    assert_eq!(now, moment(15_000));
    let Step::Change(version, claim) = one.step(now) else { panic!() };
    assert_eq!((&*version, claim.transitions, claim.is_new), ("1", 4, true));
}

#[test]
fn renewal_by_another_starts_its_time_again() {
    let mut one = election("one");
    one.read(Some(record("two", 1)), moment(0));
    one.read(Some(record("two", 2)), moment(14_000));
    assert!(matches!(one.step(moment(20_000)), Step::Wait(_)));
}

#[test]
fn released_lease_is_taken_at_once() {
    let mut one = election("one");
    one.read(Some(record("", 1)), moment(0));
    assert!(matches!(one.step(moment(0)), Step::Change(_, _)));
}

#[test]
fn lease_that_was_deleted_under_its_holder_is_not_taken_before_its_time() {
    let mut one = election("one");
    one.read(Some(record("two", 1)), moment(0));
    one.read(None, moment(2_000));
    assert!(matches!(one.step(moment(2_000)), Step::Wait(_)));
    one.read(None, moment(15_000));
    assert!(matches!(one.step(moment(15_000)), Step::Create(_)));
}

#[test]
fn own_lease_that_was_deleted_is_made_again() {
    let mut one = election("one");
    one.written(record("one", 1), moment(0), moment(0));
    one.read(None, moment(2_000));
    assert!(!one.leads(moment(2_000)));
    assert!(matches!(one.step(moment(3_000)), Step::Create(_)));
}

#[test]
fn holder_renews_and_stops_when_it_cannot() {
    let mut one = election("one");
    one.written(record("one", 1), moment(0), moment(0));
    let Step::Wait(next) = one.step(moment(10)) else { panic!() };
    assert!(matches!(one.step(next), Step::Change(_, _)));
    one.failed(next);
    assert!(one.leads(moment(9_999)));
    assert!(!one.leads(moment(10_000)));
}

#[test]
fn holder_that_sees_another_holder_stops_at_once() {
    let mut one = election("one");
    one.written(record("one", 1), moment(0), moment(0));
    one.read(Some(record("two", 2)), moment(100));
    assert!(!one.leads(moment(100)));
}

#[test]
fn refusals_are_never_answered_in_a_busy_loop() {
    let mut one = election("one");
    one.written(record("one", 1), moment(0), moment(0));
    one.refused(moment(1_000));
    let Step::Wait(until) = one.step(moment(1_000)) else { panic!() };
    assert!(until.since(moment(1_000)) >= Duration::from_millis(200));
}

#[test]
fn lease_that_cannot_be_made_is_not_asked_for_in_a_busy_loop() {
    let mut one = election("one");
    let (mut now, mut requests) = (moment(0), 0);
    while now < moment(60_000) {
        match one.step(now) {
            Step::Wait(until) => now = until,
            Step::Read => {
                requests += 1;
                one.read(None, now);
            }
            Step::Create(_) | Step::Change(..) => {
                requests += 1;
                one.failed(now);
            }
        }
    }
    assert!(requests <= 60, "{requests}");
}

#[test]
fn release_is_only_for_the_holder_and_ends_its_time() {
    let mut one = election("one");
    assert_eq!(one.release(), None);
    one.written(record("one", 5), moment(0), moment(0));
    let (version, claim) = one.release().unwrap();
    assert_eq!((&*version, &*claim.holder), ("5", ""));
    assert!(!one.leads(moment(1)));
}

#[test]
fn published_addresses_are_told_with_the_next_change_and_soon() {
    let mut one = election("one");
    one.written(record("one", 1), moment(0), moment(0));
    one.publish("192.0.2.1".into(), moment(100));
    let Step::Change(_, claim) = one.step(moment(100)) else { panic!() };
    assert_eq!(claim.published.as_deref(), Some("192.0.2.1"));
    one.written(Record { published: "192.0.2.1".into(), ..record("one", 2) }, moment(100), moment(100));
    assert!(matches!(one.step(moment(101)), Step::Wait(_)));
    assert_eq!(one.published(), "192.0.2.1");
}

/// A replica in the simulation: its election, its clock, and what it waits for.
struct Replica {
    election: Election,
    /// True time → its own.
    rate: f64,
    offset: f64,
    /// It is stopped until then, in true time.
    paused_until: u64,
    /// It cannot reach the server until then.
    cut_until: u64,
    waits: bool,
    wall: u64,
}

impl Replica {
    fn new(name: &str, random: &mut fastrand::Rng) -> Self {
        Self {
            election: Election::new(name.into(), random.fork()),
            rate: 0.9 + random.f64() / 5.0,
            offset: 1_000_000.0 * random.f64(),
            paused_until: 0,
            cut_until: 0,
            waits: false,
            wall: random.u64(..1_000_000_000),
        }
    }

    fn clock(&self, now: u64) -> Moment {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        moment((self.offset + self.rate * now as f64) as u64)
    }
}

/// What travels, and to whom.
enum Message {
    Read,
    Create(Claim),
    Change(Arc<str>, Claim),
    Answer(Answer),
}

enum Answer {
    Read(Option<Record>),
    Written(Record),
    Refused,
    Failed,
}

#[derive(Default)]
struct World {
    lease: Option<Record>,
    version: u64,
    /// (when, number) → replica, when it was sent by its clock, what
    messages: BTreeMap<(u64, u64), (usize, Moment, Message)>,
    sent: u64,
}

impl World {
    fn send(&mut self, at: u64, replica: usize, sent: Moment, message: Message) {
        self.sent += 1;
        self.messages.insert((at, self.sent), (replica, sent, message));
    }

    fn serve(&mut self, message: Message, wall: u64) -> Answer {
        let (claim, old) = match message {
            Message::Read => return Answer::Read(self.lease.clone()),
            Message::Create(_) if self.lease.is_some() => return Answer::Refused,
            Message::Create(claim) => (claim, Record::default()),
            Message::Change(version, claim) => match &self.lease {
                None => return Answer::Read(None),
                Some(lease) if lease.version != version => return Answer::Refused,
                Some(lease) => (claim, lease.clone()),
            },
            Message::Answer(_) => unreachable!(),
        };
        self.version += 1;
        let renewed: Arc<str> = wall.to_string().into();
        let record = Record {
            version: self.version.to_string().into(),
            holder: claim.holder,
            duration: claim.duration,
            acquired: if claim.is_new { Arc::clone(&renewed) } else { old.acquired },
            renewed,
            transitions: claim.transitions,
            published: claim.published.unwrap_or(old.published),
        };
        self.lease = Some(record.clone());
        Answer::Written(record)
    }
}

fn turn(
    replica: &mut Replica,
    index: usize,
    world: &mut World,
    now: u64,
    calm: bool,
    random: &mut fastrand::Rng,
) {
    if replica.waits || now < replica.paused_until {
        return;
    }
    let clock = replica.clock(now);
    let message = match replica.election.step(clock) {
        Step::Wait(_) => return,
        Step::Read => Message::Read,
        Step::Create(claim) => Message::Create(claim),
        Step::Change(version, claim) => Message::Change(version, claim),
    };
    replica.waits = true;
    // Most are quick, some slow, some never arrive; the sender gives up after its time limit.
    let delay = if !calm && random.u8(..10) == 0 { random.u64(..6_000) } else { random.u64(..50) };
    if calm || now >= replica.cut_until && random.u8(..20) != 0 {
        world.send(now + delay, index, clock, message);
    } else {
        world.send(now + 5_000, index, clock, Message::Answer(Answer::Failed));
    }
}

fn deliver(replicas: &mut [Replica], world: &mut World, now: u64, calm: bool, random: &mut fastrand::Rng) {
    while let Some(entry) = world.messages.first_entry().filter(|entry| entry.key().0 <= now) {
        let (index, sent, message) = entry.remove();
        let replica = &mut replicas[index];
        let Message::Answer(answer) = message else {
            let answer = world.serve(message, replica.wall + now);
            let back = random.u64(..50);
            // An answer that takes too long, or is lost, is a failure to the one who waits; what it did was done.
            let is_lost = !calm && (random.u8(..20) == 0 || now < replica.cut_until);
            let answer = if is_lost { Answer::Failed } else { answer };
            let delay = if is_lost { 5_000 } else { back };
            world.send(now + delay, index, sent, Message::Answer(answer));
            continue;
        };
        if now < replica.paused_until {
            let until = replica.paused_until;
            world.send(until, index, sent, Message::Answer(answer));
            continue;
        }
        replica.waits = false;
        let clock = replica.clock(now);
        match answer {
            Answer::Read(record) => replica.election.read(record, clock),
            Answer::Written(record) => replica.election.written(record, sent, clock),
            Answer::Refused => replica.election.refused(clock),
            Answer::Failed => replica.election.failed(clock),
        }
    }
}

/// Runs one history; returns how often leadership changed, and for how long nobody led.
fn simulate(seed: u64) -> (u32, u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::default();
    let mut replicas: Vec<_> =
        (0..3).map(|index| Replica::new(&format!("replica-{index}-{seed}"), &mut random)).collect();
    let mut starts = 3;
    let (mut last, mut changes, mut nobody) = (None, 0, 0);
    for now in (0..600_000).step_by(10) {
        let calm = now > 500_000;
        deliver(&mut replicas, &mut world, now, calm, &mut random);
        for (index, replica) in replicas.iter_mut().enumerate() {
            if !calm && random.u32(..20_000) == 0 {
                replica.paused_until = now + random.u64(..30_000);
            }
            if !calm && random.u32(..20_000) == 0 {
                replica.cut_until = now + random.u64(..40_000);
            }
            if !calm && random.u32(..40_000) == 0 {
                // It is killed, and started again as another one; or ended properly.
                starts += 1;
                if random.bool()
                    && now >= replica.paused_until
                    && let Some((version, claim)) = replica.election.release()
                {
                    world.send(now, index, moment(0), Message::Change(version, claim));
                }
                let next = Replica::new(&format!("replica-{starts}-{seed}"), &mut random);
                *replica = next;
                world
                    .messages
                    .retain(|_, (to, _, message)| *to != index || !matches!(message, Message::Answer(_)));
            }
            turn(replica, index, &mut world, now, calm, &mut random);
        }
        let leaders: Vec<usize> = (0..replicas.len())
            .filter(|index| replicas[*index].election.leads(replicas[*index].clock(now)))
            .collect();
        assert!(leaders.len() <= 1, "seed {seed}: {leaders:?} at {now}");
        match leaders.first() {
            Some(leader) if last != Some(*leader) => {
                changes += 1;
                last = Some(*leader);
            }
            Some(_) => {}
            None => nobody += 10,
        }
        assert!(now < 560_000 || !leaders.is_empty(), "seed {seed}: nobody leads at {now}");
    }
    (changes, nobody)
}

#[test]
fn there_are_never_two_writers() {
    let (mut changes, mut nobody) = (0, 0);
    for seed in 0..150 {
        let (changed, gap) = simulate(seed);
        changes += changed;
        nobody += gap;
    }
    assert!(changes > 500, "too quiet to show anything: {changes}");
    // Leadership is not given up for nothing.
    assert!(nobody < 150 * 600_000 / 3, "{nobody} ms without a leader");
}
