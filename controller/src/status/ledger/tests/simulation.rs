//! Two replicas, a server, users, and another controller: whatever happens in between, the status is right in the end.

use super::*;

const NAMES: usize = 12;

struct Stored {
    uid: u64,
    version: u64,
    entries: Vec<Entry>,
    writer: Option<Arc<str>>,
    claimed: bool,
}

struct Replica {
    ledger: Ledger,
    /// What it was not told yet.
    notes: VecDeque<Note>,
    /// (when, task) and what became of it
    answers: Vec<(u64, Task, Outcome)>,
}

#[derive(Clone)]
enum Note {
    Observed(Observed),
    Gone(ObjectRef),
    Claim(ObjectRef, bool),
    Addresses(BTreeSet<Address>),
    Compiled,
}

struct World {
    random: fastrand::Rng,
    stored: HashMap<usize, Stored>,
    version: u64,
    current: BTreeSet<Address>,
    recorded: BTreeSet<Address>,
    replicas: Vec<Replica>,
    leader: Option<usize>,
    writes: u64,
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let replicas = (0..2)
            .map(|_| Replica {
                ledger: Ledger::new(Scope::Shared, MANAGER.into(), false, random.fork()),
                notes: VecDeque::new(),
                answers: Vec::new(),
            })
            .collect();
        let mut world = Self {
            random,
            stored: HashMap::new(),
            version: 100,
            current: BTreeSet::new(),
            recorded: BTreeSet::new(),
            replicas,
            leader: None,
            writes: 0,
            calm: false,
        };
        world.address(&["192.0.2.1"]);
        world
    }

    fn name(index: usize) -> String {
        format!("ingress-{index}")
    }

    fn tell(&mut self, note: &Note) {
        for replica in &mut self.replicas {
            replica.notes.push_back(note.clone());
        }
    }

    fn address(&mut self, texts: &[&str]) {
        self.current = addresses(texts);
        let note = Note::Addresses(self.current.clone());
        self.tell(&note);
    }

    fn object(&self, index: usize) -> Option<Observed> {
        let stored = self.stored.get(&index)?;
        Some(Observed {
            object: object(&Self::name(index)),
            uid: stored.uid.to_string().into(),
            resource_version: stored.version.to_string().into(),
            entries: stored.entries.clone().into(),
            writer: stored.writer.clone().filter(|_| !stored.entries.is_empty()),
            service: None,
        })
    }

    fn changed(&mut self, index: usize) {
        self.version += 1;
        let version = self.version;
        if let Some(stored) = self.stored.get_mut(&index) {
            stored.version = version;
        }
        if let Some(observed) = self.object(index) {
            self.tell(&Note::Observed(observed));
        }
    }

    /// A user, the other controller, the network, or time.
    fn disturb(&mut self) {
        let index = self.random.usize(..NAMES);
        match self.random.u8(..12) {
            0..=2 if !self.stored.contains_key(&index) => {
                let uid = self.version;
                let claimed = self.random.u8(..4) != 0;
                let stored = Stored { uid, version: 0, entries: Vec::new(), writer: None, claimed };
                self.stored.insert(index, stored);
                self.changed(index);
                self.tell(&Note::Claim(object(&Self::name(index)), claimed));
            }
            3 if self.stored.remove(&index).is_some() => {
                let object = object(&Self::name(index));
                self.tell(&Note::Gone(object.clone()));
                self.tell(&Note::Claim(object, false));
            }
            4 | 5 => {
                let Some(stored) = self.stored.get_mut(&index) else { return };
                stored.claimed = !stored.claimed;
                let claimed = stored.claimed;
                self.changed(index);
                self.tell(&Note::Claim(object(&Self::name(index)), claimed));
            }
            6 => {
                // Somebody adds an address, or takes all others away.
                let Some(stored) = self.stored.get_mut(&index) else { return };
                let theirs = Entry::of(address("203.0.113.9"));
                if self.random.bool() {
                    stored.entries.clear();
                }
                if !stored.entries.contains(&theirs) {
                    stored.entries.insert(0, theirs);
                    stored.writer = Some("other".into());
                    self.changed(index);
                }
            }
            // Somebody changes something else.
            7 => self.changed(index),
            8 => {
                let texts: &[&[&str]] =
                    &[&["192.0.2.1"], &["192.0.2.2"], &["lb.example", "2001:db8::1"], &[]];
                let choice = *self.random.choice(texts).unwrap();
                self.address(choice);
            }
            9 => self.elect(),
            10 => self.tell(&Note::Compiled),
            _ => {
                // One replica begins anew and is told everything.
                let which = self.random.usize(..2);
                self.restart(which);
            }
        }
    }

    fn elect(&mut self) {
        if let Some(old) = self.leader.take() {
            let replica = &mut self.replicas[old];
            // What was sent has happened or not; nothing is known of it.
            for (_, task, _) in std::mem::take(&mut replica.answers) {
                replica.ledger.outcome(&task, Outcome::Aborted, moment(0));
            }
        }
        self.leader = Some(self.random.usize(..2));
    }

    fn restart(&mut self, which: usize) {
        let fork = self.random.fork();
        let replica = &mut self.replicas[which];
        *replica = Replica {
            ledger: Ledger::new(Scope::Shared, MANAGER.into(), false, fork),
            notes: VecDeque::new(),
            answers: Vec::new(),
        };
        replica.notes.push_back(Note::Addresses(self.current.clone()));
        let mut known: Vec<_> = self.stored.iter().map(|(index, stored)| (*index, stored.claimed)).collect();
        known.sort_unstable();
        for (index, claimed) in known {
            let observed = self.object(index).unwrap();
            let object = observed.object.clone();
            let replica = &mut self.replicas[which];
            replica.notes.push_back(Note::Observed(observed));
            replica.notes.push_back(Note::Claim(object, claimed));
        }
        self.replicas[which].notes.push_back(Note::Compiled);
        if self.leader == Some(which) {
            self.leader = None;
        }
    }

    fn serve(&mut self, task: &Task) -> Outcome {
        let dice = if self.calm { 0 } else { self.random.u8(..20) };
        match dice {
            17 => return Outcome::Failed,
            18 => return Outcome::Busy(None),
            _ => {}
        }
        let index: usize = task.object.name.strip_prefix("ingress-").unwrap().parse().unwrap();
        let Some(stored) = self.stored.get_mut(&index) else { return Outcome::Gone };
        if let Action::Write { version, entries, conditions: _ } = &task.action {
            if stored.version.to_string() != **version {
                return Outcome::Conflict;
            }
            self.writes += 1;
            let foreign = |entries: &[Entry]| {
                let theirs = Entry::of(address("203.0.113.9"));
                entries.iter().filter(|entry| **entry == theirs).count()
            };
            assert_eq!(foreign(entries), foreign(&stored.entries), "entries of others are touched");
            assert_ne!(**entries, *stored.entries, "a write that changes nothing");
            stored.entries = entries.to_vec();
            stored.writer = Some(MANAGER.into());
            self.changed(index);
        }
        if dice == 19 { Outcome::Failed } else { Outcome::Done(self.object(index).unwrap()) }
    }

    fn turn(&mut self, now: u64) {
        let at = moment(now);
        for which in 0..2 {
            let leads = self.leader == Some(which);
            let many = if self.calm { usize::MAX } else { self.random.usize(..4) };
            let replica = &mut self.replicas[which];
            for note in replica.notes.drain(..many.min(replica.notes.len())).collect::<Vec<_>>() {
                let ledger = &mut replica.ledger;
                match note {
                    Note::Observed(observed) => drop(ledger.observe(observed, at)),
                    Note::Gone(object) => ledger.gone(&object, at),
                    Note::Claim(object, claimed) => ledger.claim(&object, claimed, at),
                    Note::Addresses(addresses) => ledger.publish(addresses, at),
                    Note::Compiled => ledger.compiled(at),
                }
            }
            replica.ledger.lead(leads, at);
            if leads {
                replica.ledger.record(self.recorded.clone(), at);
                if let Some(addresses) = replica.ledger.known_addresses(at) {
                    self.recorded = addresses.clone();
                    replica.ledger.record(addresses, at);
                }
            }
            for (due, task, outcome) in std::mem::take(&mut replica.answers) {
                if due <= now {
                    replica.ledger.outcome(&task, outcome, at);
                } else {
                    replica.answers.push((due, task, outcome));
                }
            }
            while let Next::Task(task) = self.replicas[which].ledger.next(at) {
                assert!(leads);
                let outcome = self.serve(&task);
                let delay = if self.calm { 1 } else { self.random.u64(..2_000) };
                self.replicas[which].answers.push((now + delay, task, outcome));
            }
        }
    }

    fn check(&self, seed: u64) {
        for (index, stored) in &self.stored {
            let all = addresses(&["192.0.2.1", "192.0.2.2", "lb.example", "2001:db8::1"]);
            let ours: BTreeSet<Address> = stored
                .entries
                .iter()
                .filter_map(|entry| entry.address.clone())
                .filter(|address| all.contains(address))
                .collect();
            let is_theirs = stored.writer.as_deref() != Some(MANAGER);
            let wanted = if stored.claimed { self.current.clone() } else { BTreeSet::new() };
            // What somebody else wrote last and is not in our class is not ours to judge, whatever it says.
            if stored.claimed || !is_theirs {
                assert_eq!(ours, wanted, "seed {seed}, ingress-{index}, claimed {}", stored.claimed);
            }
        }
    }
}

#[test]
fn any_history_ends_with_the_right_status() {
    for seed in 0..300 {
        let mut world = World::new(seed);
        let mut now = 0;
        for _ in 0..300 {
            now += world.random.u64(..1_000);
            world.disturb();
            world.turn(now);
        }
        world.calm = true;
        world.elect();
        world.tell(&Note::Compiled);
        // Long enough for every delay, and for objects that were given up.
        for _ in 0..400 {
            now += 5_000;
            world.turn(now);
        }
        world.check(seed);
        let leader = &mut world.replicas[world.leader.unwrap()].ledger;
        assert!(leader.is_idle(), "seed {seed}");
        let writes = world.writes;
        for _ in 0..100 {
            now += 60_000;
            world.turn(now);
        }
        assert_eq!(world.writes, writes, "seed {seed}: writes without a reason");
        let leader = &mut world.replicas[world.leader.unwrap()].ledger;
        let known = leader.known_addresses(moment(now)).unwrap();
        let stands = |address: &Address| {
            let entries = world.stored.values().flat_map(|stored| &stored.entries);
            entries.into_iter().any(|entry| entry.address.as_ref() == Some(address))
        };
        assert!(
            known.iter().all(|address| world.current.contains(address) || stands(address)),
            "seed {seed}"
        );
    }
}
