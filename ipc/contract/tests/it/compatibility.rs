//! What the compatibility check lets through is understood by the other side.

use insula_contract::schema::{
    DEPTH_MAX, DeliverySchema, FieldSchema, MethodSchema, SafetySchema, Schema, SlowSchema,
    StreamSchema, TypeSchema, VariantSchema, check,
};
use proptest::prelude::*;

use crate::model::{self, Choices};

/// Writes by one type and reads by the other: what is read has to mean what was written.
fn travels(
    writer: &TypeSchema,
    reader: &TypeSchema,
    choices: &mut Choices,
) -> Result<(), TestCaseError> {
    for _ in 0..8 {
        let Some(value) = model::value(writer, choices) else {
            continue;
        };
        let bytes = model::encode(writer, &value);
        prop_assert!(bytes.len() as u64 <= writer.encoded_max(), "{value:?}");
        prop_assert!(bytes.len() as u64 <= reader.encoded_max(), "{value:?}");
        prop_assert_eq!(model::decode(reader, &bytes), Some(value));
    }
    Ok(())
}

fn pair(choices: &mut Choices) -> (Schema, Schema) {
    let consumer = model::schema(choices);
    let mut provider = consumer.clone();
    model::mutate(&mut provider, choices);
    if choices.below(2) == 0 {
        (consumer, provider)
    } else {
        (provider, consumer)
    }
}

/// What a subscriber may rely on, one promise at a time.
fn keeps_the_promise(wanted: DeliverySchema, served: DeliverySchema) -> bool {
    let every = |delivery| matches!(delivery, DeliverySchema::Lossless { .. });
    let at_joining = |delivery| match delivery {
        DeliverySchema::Latest { history } => u32::from(history),
        DeliverySchema::Lossless { history, .. } => history,
    };
    let lag = |delivery| match delivery {
        DeliverySchema::Latest { .. } => u32::MAX,
        DeliverySchema::Lossless { buffer, .. } => buffer,
    };
    let cut = |delivery| {
        let slow = SlowSchema::Disconnect;
        matches!(delivery, DeliverySchema::Lossless { slow: s, .. } if s == slow)
    };
    every(wanted) == every(served)
        && at_joining(wanted) <= at_joining(served)
        && lag(wanted) <= lag(served)
        && (cut(wanted) || !cut(served))
}

fn choices(count: usize) -> impl Strategy<Value = Choices> {
    prop::collection::vec(any::<u32>(), 0..count).prop_map(Choices::new)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8000, ..ProptestConfig::default() })]

    #[test]
    fn compatible_sides_understand_each_other(
        mut shape in choices(300),
        mut content in choices(600),
    ) {
        let (consumer, provider) = pair(&mut shape);
        if check(&consumer, &provider).is_ok() {
            prop_assert!(consumer.in_flight <= provider.in_flight);
            for wanted in &consumer.methods {
                let served = provider.methods.iter().find(|served| served.id == wanted.id);
                prop_assert!(served.is_some());
                let served = served.unwrap();
                prop_assert_eq!(&wanted.name, &served.name);
                match wanted.safety {
                    SafetySchema::AtMostOnce => {}
                    SafetySchema::Idempotent => {
                        prop_assert_ne!(served.safety, SafetySchema::AtMostOnce);
                    }
                    SafetySchema::Once => prop_assert_eq!(served.safety, SafetySchema::Once),
                }
                travels(&wanted.request, &served.request, &mut content)?;
                travels(&served.response, &wanted.response, &mut content)?;
            }
            for wanted in &consumer.streams {
                let served = provider.streams.iter().find(|served| served.id == wanted.id);
                prop_assert!(served.is_some());
                let served = served.unwrap();
                prop_assert_eq!(&wanted.name, &served.name);
                prop_assert!(keeps_the_promise(wanted.delivery, served.delivery));
                travels(&served.item, &wanted.item, &mut content)?;
            }
            travels(&provider.error, &consumer.error, &mut content)?;
        }
    }

    #[test]
    fn every_schema_is_compatible_with_itself_and_of_one_hash(mut shape in choices(300)) {
        let schema = model::schema(&mut shape);
        prop_assert_eq!(check(&schema, &schema), Ok(()));
        let mut reordered = schema.clone();
        reordered.methods.reverse();
        reordered.streams.reverse();
        prop_assert_eq!(schema.hash(), reordered.hash());
        prop_assert_eq!(check(&schema, &reordered), Ok(()));
        let mut other = schema.clone();
        model::mutate(&mut other, &mut shape);
        prop_assert_eq!(schema == other, schema.hash() == other.hash());
    }
}

/// The property above would hold of a check that refuses everything.
#[test]
fn many_changed_pairs_are_compatible() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut compatible, mut incompatible) = (0, 0);
    for _ in 0..2000 {
        let mut shape = choices(300).new_tree(&mut runner).unwrap().current();
        let (consumer, provider) = pair(&mut shape);
        match check(&consumer, &provider) {
            Ok(()) if consumer != provider => compatible += 1,
            Ok(()) => {}
            Err(_) => incompatible += 1,
        }
    }
    assert!(compatible >= 100, "only {compatible} of 2000");
    assert!(incompatible >= 100, "only {incompatible} of 2000");
}

fn sample() -> Schema {
    let text = |max| TypeSchema::Text { max };
    Schema {
        name: "sample".into(),
        major: 2,
        in_flight: 16,
        error: TypeSchema::Enum(vec![VariantSchema {
            name: "Full".into(),
            fields: vec![],
        }]),
        methods: vec![MethodSchema {
            id: 7,
            name: "put".into(),
            safety: SafetySchema::Once,
            request: TypeSchema::Struct(vec![
                FieldSchema {
                    name: "key".into(),
                    schema: text(10),
                },
                FieldSchema {
                    name: "value".into(),
                    schema: TypeSchema::Bytes { max: 300 },
                },
            ]),
            response: TypeSchema::Option(Box::new(TypeSchema::U64)),
        }],
        streams: vec![],
    }
}

fn sample_stream() -> StreamSchema {
    StreamSchema {
        id: 1,
        name: "changes".into(),
        delivery: DeliverySchema::Lossless {
            buffer: 16,
            history: 4,
            slow: SlowSchema::Wait,
        },
        item: TypeSchema::Text { max: 10 },
    }
}

/// Processes of different builds compare hashes: that of a schema may never change.
#[test]
fn the_hash_is_the_kept_one() {
    assert_eq!(format!("{:016x}", sample().hash()), "957b1c0d991260b6");
    let mut streaming = sample();
    streaming.streams.push(sample_stream());
    assert_eq!(format!("{:016x}", streaming.hash()), "072ffbb4085ddea1");
}

#[test]
fn a_schema_reads_what_it_wrote() {
    let bytes = postcard::to_stdvec(&sample()).unwrap();
    assert_eq!(postcard::from_bytes::<Schema>(&bytes).unwrap(), sample());
}

#[test]
fn a_hostile_schema_does_not_exhaust_the_stack() {
    let mut deep = sample();
    for _ in 0..DEPTH_MAX - 1 {
        deep.error = TypeSchema::Option(Box::new(deep.error));
    }
    let bytes = postcard::to_stdvec(&deep).unwrap();
    assert_eq!(postcard::from_bytes::<Schema>(&bytes).unwrap(), deep);
    // Name, major, in-flight limit, and an error type that is an option of an option of...
    let option = postcard::to_stdvec(&TypeSchema::Option(Box::new(TypeSchema::Bool))).unwrap()[0];
    let mut hostile = vec![0, 0, 0];
    hostile.extend(vec![option; 1 << 20]);
    assert!(postcard::from_bytes::<Schema>(&hostile).is_err());
}

#[test]
fn every_incompatibility_is_named_with_its_place() {
    let consumer = sample();
    let mut provider = sample();
    provider.in_flight = 8;
    let put = &mut provider.methods[0];
    put.safety = SafetySchema::Idempotent;
    put.response = TypeSchema::Option(Box::new(TypeSchema::U32));
    let TypeSchema::Struct(fields) = &mut put.request else {
        panic!("{:?}", put.request);
    };
    fields[0].schema = TypeSchema::Text { max: 9 };
    fields[1].schema = TypeSchema::Sequence {
        max: 300,
        item: Box::new(TypeSchema::U8),
    };
    provider.error = TypeSchema::Enum(vec![
        VariantSchema {
            name: "Empty".into(),
            fields: vec![],
        },
        VariantSchema {
            name: "Full".into(),
            fields: vec![],
        },
    ]);
    let said: Vec<String> = check(&consumer, &provider)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        said,
        [
            "sample@2: the provider takes 8 outstanding requests, the consumer has up to 16",
            "sample@2.put: the consumer relies on once, the provider gives idempotent",
            "sample@2.put.request.key: the provider takes at most 9, the consumer sends up to 10",
            "sample@2.put.request.value: bytes to the consumer, sequence to the provider",
            "sample@2.put.response: u64 to the consumer, u32 to the provider",
            "sample@2.error: the consumer does not know variant 0 (`Empty`)",
            "sample@2.error: the consumer does not know variant 1 (`Full`)",
        ]
    );

    provider = sample();
    provider.methods[0].id = 8;
    let problems = check(&consumer, &provider).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "sample@2.put: the provider has no method 7"
    );
    provider.major = 3;
    let problems = check(&consumer, &provider).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "sample@2: the consumer wants `sample@2`, the provider serves `sample@3`"
    );
    assert_eq!(problems.len(), 1);
}

#[test]
fn every_incompatibility_of_a_stream_is_named() {
    let mut consumer = sample();
    consumer.streams.push(sample_stream());
    let mut provider = consumer.clone();
    let stream = &mut provider.streams[0];
    stream.delivery = DeliverySchema::Lossless {
        buffer: 16,
        history: 3,
        slow: SlowSchema::Disconnect,
    };
    stream.item = TypeSchema::Text { max: 11 };
    let said = |consumer: &Schema, provider: &Schema| -> Vec<String> {
        let problems = check(consumer, provider).unwrap_err();
        problems.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        said(&consumer, &provider),
        [
            "sample@2.changes: the consumer relies on every value, a buffer of 16, a history of \
             4, waiting for the slow; the provider gives every value, a buffer of 16, a history \
             of 3, disconnecting the slow",
            "sample@2.changes.item: the consumer takes at most 10, the provider sends up to 11",
        ]
    );
    provider.streams[0].name = "edits".into();
    assert_eq!(
        said(&consumer, &provider),
        ["sample@2.changes: the provider's stream 1 is `edits`"]
    );
    provider.streams.clear();
    assert_eq!(
        said(&consumer, &provider),
        ["sample@2.changes: the provider has no stream 1"]
    );
    assert_eq!(check(&provider, &consumer), Ok(()));
}
