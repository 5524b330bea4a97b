//! What is read of sealed spans, and how a damaged block and a time past its retention are answered.

use adtally_projections::block::BlockKey;
use adtally_projections::cells::Grain;
use adtally_projections::cuboid::Cuboid;
use adtally_projections::partial::Dimension;
use adtally_projections::position::{POSITION_KEY, Position};

use super::*;

/// Three regions and two ads on each of the first ten days of March, and one click that came after they were sealed.
fn events() -> Vec<Plain> {
    let mut out = Vec::new();
    for day in 1..=10 {
        for region in ["DE", "US-CA", "JP"] {
            for ad in ["banner", "tower"] {
                let time = format!("2024-03-{day:02}T17:00:00Z");
                out.push(Plain {
                    region,
                    ..click("spring", ad, &time)
                });
            }
        }
    }
    out.push(click("spring", "banner", "2024-03-04T17:00:10Z"));
    out
}

/// The same with 30 regions: more cells than are sealed as few.
fn many() -> Vec<Plain> {
    const STATES: [&str; 30] = [
        "US-AL", "US-AK", "US-AZ", "US-AR", "US-CA", "US-CO", "US-CT", "US-DE", "US-FL", "US-GA",
        "US-HI", "US-ID", "US-IL", "US-IN", "US-IA", "US-KS", "US-KY", "US-LA", "US-ME", "US-MD",
        "US-MA", "US-MI", "US-MN", "US-MS", "US-MO", "US-MT", "US-NE", "US-NV", "US-NH", "US-NJ",
    ];
    let of = |event: Plain| {
        STATES.map(|region| Plain {
            region,
            ..event.clone()
        })
    };
    let mut out = Vec::new();
    for day in 1..=10 {
        for ad in ["banner", "tower"] {
            out.extend(of(click(
                "spring",
                ad,
                &format!("2024-03-{day:02}T17:00:00Z"),
            )));
        }
    }
    out.push(click("spring", "banner", "2024-03-04T17:00:10Z"));
    out
}

/// Everything sealed but what came last.
fn sealed() -> SnapshotSet<'static> {
    states(&many(), &catalogue(), 0, |state, fold, _, sequence| {
        if sequence <= 5 {
            seal_some(state, fold, |_| true);
        }
    })
}

fn asked(group_by: &[Dimension]) -> Question {
    Question {
        granularity: Some(Granularity::Day),
        group_by: group_by.to_vec(),
        ..question(
            named("campaign_id", &["spring"]),
            span("2024-03-01", "2024-03-11"),
        )
    }
}

use adtally_projections::buckets::Granularity;

#[test]
fn the_plan_says_which_cuboid_was_read_and_how_much_of_it() {
    let set = states(&many(), &catalogue(), 0, |state, fold, _, _| {
        seal_some(state, fold, |_| true);
    });
    let table = [
        (vec![], Cuboid::Total, 10),
        (vec![Dimension::CampaignId], Cuboid::Total, 10),
        (vec![Dimension::Device], Cuboid::Device, 10),
        (vec![Dimension::Region], Cuboid::Region, 300),
        (
            vec![Dimension::Region, Dimension::Device],
            Cuboid::RegionDevice,
            300,
        ),
        (vec![Dimension::AdId], Cuboid::AdCreative, 20),
        (vec![Dimension::AdId, Dimension::Region], Cuboid::Full, 600),
    ];
    for (group_by, cuboid, cells) in table {
        let answer = ask(&asked(&group_by), &set, &catalogue()).unwrap();
        let plan = answer.explain();
        assert_eq!(answer.table.totals.gross_clicks, 601);
        assert_eq!(plan.cuboid, cuboid);
        // One more cell of the click without a region, or each shard of an ad its own.
        assert!(
            (cells..=cells * 2 + 1).contains(&plan.cells_read.day),
            "{plan:?}"
        );
        assert_eq!((plan.rows_read.day, plan.cells_read.hour), (0, 0));
        // Ten days of a shard that are sealed one by one are two blocks.
        assert!(
            (1..=6).contains(&plan.blocks_read.day) && plan.bytes_read > 0,
            "{plan:?}"
        );
    }
    let filtered = Question {
        regions: ["US-CA".to_owned()].into(),
        ..asked(&[Dimension::AdId])
    };
    let answer = ask(&filtered, &set, &catalogue()).unwrap();
    assert_eq!(
        (answer.explain().cuboid, answer.table.totals.gross_clicks),
        (Cuboid::Full, 20)
    );
}

#[test]
fn a_damaged_block_is_named_and_never_an_answer() {
    let mut set = sealed();
    let number = set
        .shards
        .iter()
        .position(|shard| {
            let mut found = false;
            let each = &mut |_: &[u8], _: &[u8]| {
                found = true;
                Ok(ControlFlow::Break(()))
            };
            shard
                .rows
                .scan(Family::BlocksDay, &[], &[0xff; 32], each)
                .unwrap();
            found
        })
        .unwrap();
    struct Flipped(Box<dyn ShardRead>);
    impl ShardRead for Flipped {
        fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
            self.0.get(family, key)
        }
        fn scan(
            &self,
            family: Family,
            from: &[u8],
            to: &[u8],
            each: EachRow<'_>,
        ) -> Result<(), QueryError> {
            self.0.scan(family, from, to, &mut |key, value| {
                let mut value = value.to_vec();
                if family == Family::BlocksDay
                    && BlockKey::decode(Grain::Day, key)?.cuboid == Cuboid::Total
                {
                    value[20] ^= 4;
                }
                each(key, &value)
            })
        }
    }
    let shard = set.shards.remove(number);
    set.shards.insert(
        number,
        Shard {
            number: shard.number,
            rows: Box::new(Flipped(shard.rows)),
        },
    );
    let error = ask(&asked(&[]), &set, &catalogue()).unwrap_err();
    let said = error.to_string();
    for part in [
        format!("shard {number} "),
        "campaign spring, days of 2024-03: its checksum".to_owned(),
        format!("`adtally replay --from beginning --shard {number}`"),
    ] {
        assert!(said.contains(&part), "{said}");
    }
    // What does not need it is answered.
    let by_ad = ask(&asked(&[Dimension::AdId]), &set, &catalogue()).unwrap();
    assert_eq!(by_ad.table.totals.gross_clicks, 601);
}

#[test]
fn what_is_past_its_retention_is_not_answered_in_part() {
    let set = states(&events(), &catalogue(), 0, |state, fold, _, _| {
        seal_some(state, fold, |n| n % 2 == 0);
        // Minutes for 90 days, hours for two years. The log goes on to the middle of June: minutes are kept from 17
        // March on.
        let days = |n: i64| Some(n * 86_400_000);
        state.keep(Retention {
            keep_ms: [days(90), days(730), None],
        });
        let mut changes = Changes::default();
        let position = Position {
            log_time_ms: ms("2024-06-15T12:00:00Z"),
            ..fold.position()
        };
        changes.put(
            Family::Meta,
            |k| k.extend_from_slice(POSITION_KEY),
            |v| position.encode(v),
        );
        state.write(&changes);
    });
    let of = |granularity, zone: Option<chrono_tz::Tz>| Question {
        granularity: Some(granularity),
        time_zone: zone,
        ..asked(&[])
    };
    let total = |question: &Question| {
        ask(question, &set, &catalogue()).map(|answer| answer.table.totals.gross_clicks)
    };
    let minutes = Question {
        granularity: Some(Granularity::Minute),
        ..question(
            named("campaign_id", &["spring"]),
            span("2024-03-02", "2024-03-05"),
        )
    };
    let QueryError::Asked { parameter, detail } = total(&minutes).unwrap_err() else {
        panic!("it is the question's fault");
    };
    assert_eq!(parameter, Some("start"));
    assert!(
        detail.contains("minute counts are kept from 2024-03-17T12:00:00Z on"),
        "{detail}"
    );
    assert_eq!(total(&of(Granularity::Hour, None)), Ok(61));
    // Where nothing was, nothing is gone.
    let before = Question {
        granularity: Some(Granularity::Minute),
        ..question(
            named("campaign_id", &["spring"]),
            span("2024-02-20T00:00Z", "2024-02-22T00:00Z"),
        )
    };
    assert_eq!(total(&before), Ok(0));
    let ever = Question {
        granularity: Some(Granularity::Total),
        ..question(
            named("campaign_id", &["spring"]),
            span("2001-01-01T00:10Z", "2100-01-01T00:00Z"),
        )
    };
    assert_eq!(total(&ever), Ok(61));
    // Hours and days of Tokyo's clock are made of New York's hours.
    for granularity in [Granularity::Hour, Granularity::Day, Granularity::Total] {
        // On Tokyo's clock the last clicks are of the 11th.
        let tokyo = Question {
            span: span("2024-03-01", "2024-03-12"),
            ..of(granularity, Some(chrono_tz::Tz::Asia__Tokyo))
        };
        let answer = ask(&tokyo, &set, &catalogue()).unwrap();
        assert_eq!(answer.table.totals.gross_clicks, 61, "{granularity:?}");
        let plan = answer.explain();
        assert!(
            plan.cells_read.hour > 0 && plan.cells_read.minute == 0,
            "{plan:?}"
        );
    }
    // Those of Kolkata's are not.
    let kolkata = of(Granularity::Hour, Some(chrono_tz::Tz::Asia__Kolkata));
    let error = total(&kolkata).unwrap_err().to_string();
    assert!(error.contains("do not divide this range"), "{error}");
}
