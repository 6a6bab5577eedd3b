//! Plain rounds for tests.

use std::collections::BTreeMap;

use super::record::{Machine, Measured, Outcome, Round, Run, Sample, Unit};

/// A sample of which everything but the figure is the same each time.
pub(crate) fn sample(figure: f64) -> Sample {
    let latency = [("p50", figure * 10.0), ("p99", figure * 20.0), ("max", figure * 50.0)];
    Sample {
        figure,
        requests: 100_000,
        seconds: 2.0,
        proxy_cpu: figure / 10.0,
        load_idle: 0.2,
        steal: 0.001,
        others: 0.01,
        slowness: 0.0,
        latency: latency.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

/// It counts.
pub(crate) fn good(figure: f64) -> Outcome {
    Outcome::Good(sample(figure))
}

/// It does not count.
pub(crate) fn thrown_away(figure: f64, why: &str) -> Outcome {
    Outcome::ThrownAway(sample(figure), why.to_owned())
}

/// A round with these outcomes.
pub(crate) fn round(outcomes: impl IntoIterator<Item = (&'static str, Outcome)>) -> Round {
    let outcomes = outcomes.into_iter().map(|(name, outcome)| (name.to_owned(), outcome)).collect();
    Round { proxy_cpus: vec![0], load_cpus: vec![1], outcomes }
}

/// A round in which all of these count.
pub(crate) fn figures(figures: &[(&'static str, f64)]) -> Round {
    round(figures.iter().map(|(name, figure)| (*name, good(*figure))))
}

/// A scenario of one worker.
pub(crate) fn scenario(name: &str, rounds: Vec<Round>) -> Measured {
    Measured {
        name: name.to_owned(),
        about: format!("What {name} does."),
        workers: 1,
        unit: Unit::CpuMicrosPerRequest,
        against: None,
        rounds,
    }
}

/// A run of these scenarios.
pub(crate) fn run(scenarios: Vec<Measured>) -> Run {
    let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    Run {
        command: ["benches", "compare", "--quick"].map(str::to_owned).into(),
        began: "2026-01-02T03:04:05Z".to_owned(),
        seconds: 754.2,
        machine: Machine {
            commit: "0123456789abcdef+".to_owned(),
            kernel: "6.18.0".to_owned(),
            cpu: "A CPU @ 3 GHz".to_owned(),
            cpus: 2,
            memory: 8 << 30,
            sysctls: map(&[("net.ipv4.tcp_congestion_control", "cubic")]),
            versions: map(&[("nginx", "1.22.1"), ("relay", "0.1.0"), ("sluicegate", "0.1.0")]),
        },
        scenarios,
        absent: map(&[("envoy", "benches/peers.sh envoy")]),
    }
}
