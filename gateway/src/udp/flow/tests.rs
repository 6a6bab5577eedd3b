use std::collections::BTreeMap;

use super::*;

fn key(client: u16, local: u8) -> Key {
    Key {
        client: SocketAddr::from(([10, 0, 0, host(client)], client)),
        local: IpAddr::from([127, 0, 0, local]),
    }
}

/// Ports are spread over three clients.
fn host(client: u16) -> u8 {
    u8::try_from(client % 3).unwrap()
}

const MOST: Most = Most { here: u32::MAX, all: u32::MAX };

const LIMITS: Limits = Limits { idle: 10, lifetime: 0 };

#[test]
fn a_client_that_uses_two_addresses_of_ours_has_two_flows() {
    let mut flows = Flows::default();
    let (one, _) = flows.insert(key(1, 1), 0, ());
    let (two, _) = flows.insert(key(1, 2), 0, ());
    assert_ne!(one, two);
    assert_eq!((flows.find(&key(1, 1)), flows.find(&key(1, 2))), (Some(one), Some(two)));
    assert_eq!(flows.find(&key(2, 1)), None);
}

#[test]
fn a_key_never_has_two_flows() {
    let mut flows = Flows::default();
    flows.insert(key(1, 1), 0, 'a');
    let (_, before) = flows.insert(key(1, 1), 1, 'b');
    assert_eq!(before.map(|flow| flow.value), Some('a'));
    assert_eq!(flows.ids().count(), 1);
}

#[test]
fn a_flow_is_due_when_nobody_has_said_anything_for_the_idle_time() {
    let mut flows = Flows::default();
    let (id, _) = flows.insert(key(1, 1), 0, ());
    flows.heard_client(id, 5, MOST);
    assert_eq!(flows.due(14, LIMITS), None);
    flows.heard_endpoint(id, 14);
    assert_eq!(flows.due(23, LIMITS), None);
    assert_eq!(flows.due(24, LIMITS), Some((id, Due::Idle)));
}

#[test]
fn no_limit_is_no_limit() {
    let mut flows = Flows::default();
    flows.insert(key(1, 1), 0, ());
    assert_eq!(flows.due(u32::MAX, Limits::default()), None);
}

#[test]
fn a_flow_is_due_at_the_end_of_its_life_however_busy_it_is() {
    let mut flows = Flows::default();
    let (id, _) = flows.insert(key(1, 1), 0, ());
    let limits = Limits { idle: 10, lifetime: 30 };
    for now in 0..30 {
        flows.heard_client(id, now, MOST);
        assert_eq!(flows.due(now, limits), None);
    }
    assert_eq!(flows.due(30, limits), Some((id, Due::Lifetime)));
}

#[test]
fn the_victim_is_the_longest_silent_flow_that_has_not_shown_that_somebody_is_there() {
    let mut flows = Flows::default();
    let (assured, _) = flows.insert(key(1, 1), 0, ());
    flows.heard_endpoint(assured, 0);
    flows.heard_client(assured, 0, MOST);
    assert_eq!(flows.victim(Whom::Any, 0), None);
    let (answered, _) = flows.insert(key(2, 1), 0, ());
    let (fresh, _) = flows.insert(key(3, 1), 1, ());
    flows.heard_endpoint(answered, 2);
    assert_eq!(flows.victim(Whom::Any, 2), Some(fresh));
    flows.remove(fresh);
    assert_eq!(flows.victim(Whom::Any, 2), Some(answered));
}

/// A flow whose client went on after an answer at that time.
fn insert_assured(flows: &mut Flows<()>, client: u16, now: u32) -> u32 {
    let (id, _) = flows.insert(key(client, 1), now, ());
    flows.heard_endpoint(id, now);
    flows.heard_client(id, now, MOST);
    id
}

#[test]
fn a_flow_in_use_goes_once_it_is_silent_and_nobody_else_can() {
    let mut flows = Flows::default();
    let (one, two) = (insert_assured(&mut flows, 1, 0), insert_assured(&mut flows, 2, 1));
    flows.heard_endpoint(one, 5);
    assert_eq!(flows.victim(Whom::Any, SILENCE), None);
    assert_eq!(flows.victim(Whom::Any, 1 + SILENCE), Some(two));
    flows.remove(two);
    assert_eq!(flows.victim(Whom::Any, 4 + SILENCE), None);
    assert_eq!(flows.victim(Whom::Any, 5 + SILENCE), Some(one));
}

#[test]
fn new_flows_that_are_few_have_time_for_an_answer_while_flows_in_use_are_silent() {
    let mut flows = Flows::default();
    let assured: Vec<u32> = (0..14).map(|client| insert_assured(&mut flows, client, 0)).collect();
    let (one, _) = flows.insert(key(100, 1), SILENCE, ());
    assert_eq!(flows.victim(Whom::Any, SILENCE), Some(assured[0]), "one of 15 is new");
    let (two, _) = flows.insert(key(101, 1), SILENCE, ());
    assert_eq!(flows.victim(Whom::Any, SILENCE), Some(one), "an eighth is");
    flows.remove(one);
    for id in assured {
        flows.heard_client(id, SILENCE, MOST);
    }
    assert_eq!(flows.victim(Whom::Any, SILENCE), Some(two), "nobody else is silent");
}

#[test]
fn a_client_with_many_flows_has_some_that_must_go_when_there_is_no_room() {
    let all = Rc::<RefCell<Shares>>::default();
    let mut tables: [Flows<()>; 2] = std::array::from_fn(|_| Flows::new(Rc::clone(&all)));
    let most = Most { here: 2, all: 3 };
    let mut stages = |table: usize, client| {
        let flows = &mut tables[table];
        let id = flows.find(&key(client, 1)).unwrap_or_else(|| flows.insert(key(client, 1), 0, ()).0);
        flows.heard_endpoint(id, 0);
        flows.heard_client(id, 0, most);
        flows.at(id).unwrap().stage
    };
    let (assured, answered) = (Stage::Assured, Stage::Answered);
    assert_eq!([0, 3, 6].map(|client| stages(0, client)), [assured, assured, answered]);
    assert_eq!([0, 3].map(|client| stages(1, client)), [assured, answered]);
    assert_eq!(stages(1, 1), assured, "another client");
    let gone = tables[0].find(&key(0, 1)).unwrap();
    tables[0].remove(gone);
    let id = tables[1].find(&key(3, 1)).unwrap();
    tables[1].heard_client(id, 0, most);
    assert_eq!(tables[1].at(id).unwrap().stage, assured, "there is room again");
    assert_eq!((tables[0].load().doubtful, tables[1].load().doubtful), (1, 0));
}

/// What a flow should be, kept without any cleverness.
#[derive(Clone, Copy, Debug)]
struct Plain {
    id: u32,
    stage: Stage,
    born: u32,
    used: u32,
    /// Order of the last move to the end of its queue.
    moved: u64,
}

/// Who has to go: of the doubtful while they are an eighth or more, else of those in use that are silent, else again of
/// the doubtful.
fn plain_victim(model: &BTreeMap<(u16, u8), Plain>, now: u32) -> Option<(u16, u8)> {
    let oldest = |stays: &dyn Fn(&Plain) -> bool| {
        let those = model.iter().filter(|(_, plain)| stays(plain));
        those.min_by_key(|(_, plain)| plain.moved).map(|(name, _)| *name)
    };
    let doubtful = oldest(&|plain| plain.stage != Stage::Assured);
    // The first in the queue is the one that was silent for longest.
    let assured = oldest(&|plain| plain.stage == Stage::Assured);
    let silent = assured.filter(|name| now - model[name].used >= SILENCE);
    let doubts = model.values().filter(|plain| plain.stage != Stage::Assured).count();
    if doubts * 8 >= model.len() { doubtful } else { silent.or(doubtful) }
}

/// One run of arrivals, answers, removals, expiry and eviction against a model that looks at everything every time.
fn simulate(seed: u64, steps: u32) {
    let mut random = fastrand::Rng::with_seed(seed);
    let most = random.usize(1..40);
    let shares = Most { here: random.u32(1..20), all: random.u32(1..20) };
    let limits = Limits { idle: random.u32(0..60), lifetime: random.u32(0..120) };
    let (mut flows, mut model) = (Flows::default(), BTreeMap::<(u16, u8), Plain>::new());
    let (mut now, mut moves) = (0, 0_u64);
    for _ in 0..steps {
        now += u32::from(random.u8(0..8) == 0);
        moves += 1;
        let name = (random.u16(0..60), random.u8(1..3));
        match random.u8(0..20) {
            0 => {
                let removed = flows.find(&key(name.0, name.1)).and_then(|id| flows.remove(id));
                assert_eq!(removed.map(|flow| flow.value), model.remove(&name).map(|_| name));
            }
            1..=8 => {
                if let Some(plain) = model.get_mut(&name) {
                    flows.heard_endpoint(plain.id, now);
                    if plain.stage == Stage::Fresh {
                        plain.stage = Stage::Answered;
                    }
                    if plain.used != now {
                        (plain.used, plain.moved) = (now, moves);
                    }
                }
            }
            _ => {
                let is_kept = |(other, plain): &(&(u16, u8), &Plain)| {
                    host(other.0) == host(name.0) && plain.stage == Stage::Assured
                };
                let kept = u32::try_from(model.iter().filter(is_kept).count()).unwrap();
                match model.get_mut(&name) {
                    Some(plain) => {
                        flows.heard_client(plain.id, now, shares);
                        if plain.stage == Stage::Answered && kept < shares.here.min(shares.all) {
                            (plain.stage, plain.used, plain.moved) = (Stage::Assured, now, moves);
                        } else if plain.used != now {
                            (plain.used, plain.moved) = (now, moves);
                        }
                    }
                    None => {
                        let oldest = plain_victim(&model, now);
                        let victim = flows.victim(Whom::Any, now);
                        assert_eq!(victim.and_then(|id| flows.at(id)).map(|flow| flow.value), oldest);
                        let has_room = model.len() < most || oldest.is_some();
                        if let (true, Some(oldest)) = (model.len() >= most, oldest) {
                            model.remove(&oldest);
                            flows.remove(victim.unwrap()).unwrap();
                        }
                        if has_room {
                            let (id, before) = flows.insert(key(name.0, name.1), now, name);
                            assert!(before.is_none());
                            let plain = Plain { id, stage: Stage::Fresh, born: now, used: now, moved: moves };
                            model.insert(name, plain);
                        }
                    }
                }
            }
        }
        while let Some((id, due)) = flows.due(now, limits) {
            let name = flows.remove(id).unwrap().value;
            let plain = model.remove(&name).unwrap();
            match due {
                Due::Idle => assert!(now - plain.used >= limits.idle),
                Due::Lifetime => assert!(now - plain.born >= limits.lifetime),
            }
        }
        let over = |since: u32, limit: u32| limit > 0 && now - since >= limit;
        assert!(!model.values().any(|one| over(one.used, limits.idle) || over(one.born, limits.lifetime)));
        assert!(model.len() <= most);
        assert_eq!(flows.ids().count(), model.len());
        let doubts = model.values().filter(|plain| plain.stage != Stage::Assured).count();
        assert_eq!(flows.load().doubtful, doubts, "seed {seed}");
        for (name, plain) in &model {
            assert_eq!(flows.find(&key(name.0, name.1)), Some(plain.id), "seed {seed}");
            let flow = flows.at(plain.id).unwrap();
            assert_eq!((flow.value, flow.stage), (*name, plain.stage), "seed {seed}");
        }
    }
}

#[test]
fn flows_are_what_a_model_says_that_looks_at_everything() {
    for seed in 0..200 {
        simulate(seed, 1_000);
    }
}
