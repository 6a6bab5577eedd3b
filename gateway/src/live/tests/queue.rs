use super::*;

fn capped(queue_size: u32, queue_timeout: Duration) -> (Arc<LiveBackend>, Publisher) {
    published(1, BackendPolicy { max_requests_per_endpoint: 1, queue_size, queue_timeout, ..policy() })
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(future)
}

#[test]
fn a_waiting_request_gets_the_slot_that_becomes_free() {
    run(async {
        let (backend, _publisher) = capped(1, 60 * SECOND);
        let held = backend.pick(&request(Instant::now())).unwrap();
        let waiter = {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move { backend.wait_for_slot(&request(Instant::now())).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert_eq!(backend.state.queued(), 1);
        drop(held);
        assert_eq!(waiter.await.unwrap(), Ok(()));
        assert_eq!(backend.state.queued(), 0);
    });
}

#[test]
fn a_full_or_absent_queue_refuses_at_once() {
    run(async {
        let (backend, _publisher) = capped(0, SECOND);
        let _held = backend.pick(&request(Instant::now())).unwrap();
        let refused = backend.wait_for_slot(&request(Instant::now())).await;
        assert_eq!(refused.unwrap_err(), PickError::AtCapacity);
        let counters = backend.state.counters.of(0).unwrap();
        assert_eq!((counters.queued.value(), counters.queue_rejected.value()), (0, 1));
    });
}

#[test]
fn who_waited_first_is_served_first_and_nobody_overtakes() {
    run(async {
        let (backend, _publisher) = capped(10, 60 * SECOND);
        let mut held = Some(backend.pick(&request(Instant::now())).unwrap());
        let (sender, mut served) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..5 {
            let (backend, sender) = (Arc::clone(&backend), sender.clone());
            tokio::spawn(async move {
                let slot = backend.wait_for_slot(&request(Instant::now())).await.unwrap();
                sender.send((number, slot)).ok();
            });
            tokio::task::yield_now().await;
        }
        for expected in 0..5 {
            drop(held.take());
            // The slot is free for this instant, but it belongs to those who wait.
            assert_eq!(backend.pick(&request(Instant::now())).unwrap_err(), PickError::AtCapacity);
            let (number, slot) = served.recv().await.unwrap();
            assert_eq!(number, expected);
            held = Some(slot);
        }
    });
}

#[test]
fn a_waiter_that_gives_up_passes_its_turn_on() {
    run(async {
        let (backend, _publisher) = capped(10, 60 * SECOND);
        let held = backend.pick(&request(Instant::now())).unwrap();
        let wait = |backend: Arc<LiveBackend>| async move {
            backend.wait_for_slot(&request(Instant::now())).await.map(drop)
        };
        let first = tokio::spawn(wait(Arc::clone(&backend)));
        tokio::task::yield_now().await;
        let second = tokio::spawn(wait(Arc::clone(&backend)));
        tokio::task::yield_now().await;
        drop(held);
        first.abort();
        assert_eq!(second.await.unwrap(), Ok(()));
        assert_eq!(backend.state.queued(), 0);
    });
}

#[test]
fn waiting_ends_with_the_queue_timeout() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (backend, _publisher) = capped(10, Duration::from_millis(30));
        let _held = backend.pick(&request(Instant::now())).unwrap();
        let began = Instant::now();
        let refused = backend.wait_for_slot(&request(began)).await;
        assert_eq!(refused.unwrap_err(), PickError::AtCapacity);
        assert!(began.elapsed() >= Duration::from_millis(30));
    });
}

#[test]
fn slots_freed_on_one_thread_wake_waiters_on_another() {
    let (backend, _publisher) = capped(100, 60 * SECOND);
    let served = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (backend, served) = (&backend, &served);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(async {
                    for _ in 0..2_000 {
                        let request = PickRequest { worker, ..request(Instant::now()) };
                        let slot = match backend.pick(&request) {
                            Ok(slot) => slot,
                            Err(_) => backend.wait_for_slot(&request).await.unwrap(),
                        };
                        tokio::task::yield_now().await;
                        drop(slot);
                        served.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            });
        }
    });
    assert_eq!(served.into_inner(), 4_000);
    assert_eq!(backend.endpoints[0].in_flight(), 0);
}
