//! Tenants share an engine fairly.

use std::sync::Arc;

use yantra_engine::{EngineConfig, Request};

use crate::fake::{FakeModel, Gate, Pending, greedy};

#[test]
fn a_tenant_that_floods_is_not_served_before_the_others() {
    let gate = Arc::new(Gate::default());
    let model = FakeModel { gate: Some(Arc::clone(&gate)), ..FakeModel::new(4, 256) };
    let engine = model.spawn(EngineConfig { max_sequences: 2, token_budget: 8, ..EngineConfig::default() });
    let (order, served) = std::sync::mpsc::channel();
    let submit = |tenant: &'static str, number: u32| {
        let order = order.clone();
        let request = Request { tenant: Some(tenant.into()), ..greedy(&[number, 1, 2], 4) };
        let mut told = false;
        let sink = move |event| {
            if matches!(event, yantra_engine::Event::Token { .. }) && !std::mem::replace(&mut told, true) {
                order.send(tenant).unwrap();
            }
            true
        };
        engine.submit(request, Box::new(sink)).unwrap();
    };
    (0..40).for_each(|number| submit("flood", number));
    (0..4).for_each(|number| submit("other", 100 + number));
    gate.open();
    let order: Vec<&str> = served.iter().take(44).collect();
    let last_other = order.iter().rposition(|name| *name == "other").unwrap();
    assert!(last_other < 12, "four requests in turns with eight of the flood at most: {order:?}");
    let flood = Pending::submit(&engine, greedy(&[1, 2, 3], 2)).wait();
    assert_eq!(flood.tokens[&0].len(), 2);
}
