//! A Backend under seeded traffic in simulated time, with endpoints that die, hang, err and come back.

use super::*;

/// What an endpoint does with a request.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Behaviour {
    /// Answers after 1 to 20 ms.
    Well,
    /// Refuses the connection.
    Dead,
    /// Never answers; the request ends at its deadline of one second.
    Hung,
    /// Answers 500 within 100 µs.
    FailsFast,
}

/// A request in flight.
struct Flying {
    ends: Instant,
    outcome: Outcome,
    slot: InFlight,
}

struct Simulation {
    backend: Arc<LiveBackend>,
    _publisher: Publisher,
    random: fastrand::Rng,
    now: Instant,
    behaviour: Vec<Behaviour>,
    flying: Vec<Flying>,
    /// Attempts by endpoint since the last [`Simulation::run`] began.
    attempts: Vec<usize>,
    errors: usize,
    retries: usize,
}

impl Simulation {
    fn new(seed: u64, count: u16, policy: BackendPolicy) -> Self {
        let (backend, publisher) = published(count, policy);
        Self {
            backend,
            _publisher: publisher,
            random: fastrand::Rng::with_seed(seed),
            now: Instant::now(),
            behaviour: vec![Behaviour::Well; usize::from(count)],
            flying: Vec::new(),
            attempts: vec![0; usize::from(count)],
            errors: 0,
            retries: 0,
        }
    }

    /// 400 requests per second for `length`.
    fn run(&mut self, length: Duration) {
        self.attempts.fill(0);
        let end = self.now + length;
        while self.now < end {
            self.now += Duration::from_micros(self.random.u64(1..5_000));
            self.land();
            self.attempt(&mut Vec::new());
        }
    }

    /// One attempt; a failure to connect is retried elsewhere at once, as the engine does.
    fn attempt(&mut self, exclude: &mut Vec<u64>) {
        let hash = self.random.u64(..1 << 32);
        let Ok(slot) = self.backend.pick(&PickRequest {
            hash,
            exclude,
            now: self.now,
            worker: 0,
            cap: 0,
            is_sticky: false,
            ipv4: None,
        }) else {
            self.errors += 1;
            return;
        };
        let endpoint = Arc::clone(slot.endpoint());
        let index = self.backend.endpoints.iter().position(|other| other.id == endpoint.id).unwrap();
        self.attempts[index] += 1;
        let (outcome, lasts) = match self.behaviour[index] {
            Behaviour::Well => (Outcome::Success, Duration::from_micros(self.random.u64(1_000..20_000))),
            Behaviour::Hung => (Outcome::Timeout, SECOND),
            Behaviour::FailsFast => (Outcome::ServerError, Duration::from_micros(100)),
            Behaviour::Dead => {
                self.backend.report(&endpoint, Outcome::ConnectFailed, self.now);
                drop(slot);
                exclude.push(endpoint.id);
                if exclude.len() > 2 {
                    self.errors += 1;
                } else {
                    self.retries += 1;
                    self.attempt(exclude);
                }
                return;
            }
        };
        self.flying.push(Flying { ends: self.now + lasts, outcome, slot });
    }

    /// Kills an endpoint: what is in flight to it is reset.
    fn kill(&mut self, index: usize) {
        self.behaviour[index] = Behaviour::Dead;
        let id = self.backend.endpoints[index].id;
        for flying in self.flying.iter_mut().filter(|flying| flying.slot.endpoint().id == id) {
            (flying.outcome, flying.ends) = (Outcome::Reset, self.now);
        }
        self.land();
    }

    /// Ends what is due.
    fn land(&mut self) {
        let (due, flying) =
            std::mem::take(&mut self.flying).into_iter().partition(|f: &Flying| f.ends <= self.now);
        self.flying = flying;
        for Flying { ends, outcome, slot } in due {
            self.backend.report(slot.endpoint(), outcome, ends);
        }
    }

    fn is_healthy(&self, index: usize) -> bool {
        self.backend.endpoints[index].is_healthy()
    }
}

fn policies() -> [Balance; 3] {
    [Balance::RoundRobin, Balance::LeastConnection, Balance::ConsistentHash(HashKey::SourceIp)]
}

#[test]
fn a_killed_endpoint_costs_three_attempts_and_no_request_and_comes_back() {
    for (seed, balance) in (0..3).flat_map(|seed| policies().map(|balance| (seed, balance))) {
        let mut simulation = Simulation::new(seed, 4, BackendPolicy { balance: balance.clone(), ..policy() });
        simulation.run(2 * SECOND);
        assert!(simulation.attempts.iter().all(|attempts| *attempts > 0));
        simulation.kill(2);
        simulation.run(SECOND);
        assert!(!simulation.is_healthy(2), "{balance:?}, seed {seed}");
        assert!(simulation.attempts[2] <= 3, "{balance:?}, seed {seed}: {} attempts", simulation.attempts[2]);
        // Dead for a minute: one trial per ejection, each ejection longer than the one before.
        simulation.run(60 * SECOND);
        assert!(simulation.attempts[2] <= 5, "{balance:?}, seed {seed}: {} trials", simulation.attempts[2]);
        simulation.behaviour[2] = Behaviour::Well;
        simulation.run(31 * SECOND);
        assert!(simulation.is_healthy(2), "{balance:?}, seed {seed}");
        simulation.run(SECOND);
        assert!(simulation.attempts[2] > 60, "{balance:?}, seed {seed}: {} attempts", simulation.attempts[2]);
        assert_eq!(simulation.errors, 0, "{balance:?}, seed {seed}");
        assert!(simulation.retries <= 10);
        simulation.now += 2 * SECOND;
        simulation.land();
        assert!(simulation.backend.endpoints.iter().all(|endpoint| endpoint.in_flight() == 0));
    }
}

#[test]
fn an_endpoint_that_hangs_is_ejected_at_its_third_timeout() {
    for seed in 0..10 {
        let mut simulation = Simulation::new(seed, 4, policy());
        simulation.run(SECOND);
        simulation.behaviour[0] = Behaviour::Hung;
        simulation.run(SECOND + Duration::from_millis(100));
        assert!(!simulation.is_healthy(0), "seed {seed}");
        simulation.run(3 * SECOND);
        assert_eq!(simulation.attempts[0], 0, "seed {seed}");
        // Half-open: one request at a time tries it, and holds the place for its whole second.
        simulation.run(6 * SECOND);
        assert!((1..=2).contains(&simulation.attempts[0]), "seed {seed}: {}", simulation.attempts[0]);
    }
}

#[test]
fn an_endpoint_that_fails_fast_does_not_attract_the_traffic_of_least_connection() {
    let passive = PassivePolicy { error_rate: 50, ..PassivePolicy::default() };
    let health = Arc::new(HealthPolicy { active: None, passive: Some(passive) });
    for seed in 0..10 {
        let policy =
            BackendPolicy { balance: Balance::LeastConnection, health: Arc::clone(&health), ..policy() };
        let mut simulation = Simulation::new(seed, 4, policy);
        simulation.run(SECOND);
        simulation.behaviour[1] = Behaviour::FailsFast;
        simulation.run(SECOND);
        assert!(!simulation.is_healthy(1), "seed {seed}");
        assert!(simulation.attempts[1] < 120, "seed {seed}: {}", simulation.attempts[1]);
        simulation.behaviour[1] = Behaviour::Well;
        simulation.run(10 * SECOND);
        assert!(simulation.is_healthy(1), "seed {seed}");
    }
}

#[test]
fn when_everything_dies_everything_is_tried_and_the_first_to_return_serves() {
    for (seed, balance) in (0..2).flat_map(|seed| policies().map(|balance| (seed, balance))) {
        let mut simulation = Simulation::new(seed, 3, BackendPolicy { balance: balance.clone(), ..policy() });
        simulation.behaviour.fill(Behaviour::Dead);
        simulation.run(20 * SECOND);
        assert!(simulation.attempts.iter().all(|attempts| *attempts > 200));
        simulation.behaviour[1] = Behaviour::Well;
        simulation.run(60 * SECOND);
        simulation.errors = 0;
        simulation.run(5 * SECOND);
        assert_eq!(simulation.errors, 0, "{balance:?}, seed {seed}");
        assert!(simulation.is_healthy(1), "{balance:?}, seed {seed}");
    }
}

#[test]
fn a_recovered_endpoint_is_not_stampeded() {
    for seed in 0..10 {
        let policy = BackendPolicy { slow_start: 10 * SECOND, ..policy() };
        let mut simulation = Simulation::new(seed, 4, policy);
        simulation.behaviour[3] = Behaviour::Dead;
        simulation.run(SECOND);
        simulation.behaviour[3] = Behaviour::Well;
        while !simulation.is_healthy(3) {
            simulation.run(Duration::from_millis(10));
        }
        let shares: Vec<usize> = (0..10)
            .map(|_| {
                simulation.run(SECOND);
                simulation.attempts[3]
            })
            .collect();
        assert!(shares[0] < 15, "seed {seed}: {shares:?}");
        assert!(shares.windows(2).filter(|pair| pair[0] < pair[1]).count() > 5, "seed {seed}: {shares:?}");
        assert!(shares[9] > 75, "seed {seed}: {shares:?}");
    }
}
