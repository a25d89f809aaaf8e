//! Values by schema: JSON to bytes is what the typed encoder writes, and back.

use insula_contract::schema::{FieldSchema, TypeSchema};
use insula_ipc::Message;
use insula_ipc::contract::Message as _;
use insula_ipc::dynamic::{decode, encode, example};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Everything {
    flag: bool,
    small: u8,
    medium: u16,
    large: u32,
    huge: u64,
    tiny: i8,
    short: i16,
    long: i32,
    longest: i64,
    ratio: f32,
    exact: f64,
    #[message(max = 40)]
    text: String,
    #[message(max = 4)]
    list: Vec<Choice>,
    row: [u16; 3],
    maybe: Option<Wrapped>,
    pair: Pair,
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Wrapped(u32);

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Pair(u8, i64);

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
enum Choice {
    Nothing,
    Number(i32),
    Both(u8, bool),
    Named {
        #[message(max = 20)]
        name: String,
        wrapped: Option<Wrapped>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Borrowed<'a> {
    #[message(max = 60)]
    key: &'a [u8],
    after: u64,
}

/// The JSON that `serde_json` would write.
fn choice_json(choice: &Choice) -> Value {
    match choice {
        Choice::Nothing => json!("Nothing"),
        Choice::Number(number) => json!({ "Number": number }),
        Choice::Both(small, flag) => json!({ "Both": [small, flag] }),
        Choice::Named { name, wrapped } => {
            json!({ "Named": { "name": name, "wrapped": wrapped.as_ref().map(|w| w.0) } })
        }
    }
}

fn everything_json(all: &Everything) -> Value {
    let list: Vec<_> = all.list.iter().map(choice_json).collect();
    json!({
        "flag": all.flag, "small": all.small, "medium": all.medium, "large": all.large,
        "huge": all.huge, "tiny": all.tiny, "short": all.short, "long": all.long,
        "longest": all.longest, "ratio": f64::from(all.ratio), "exact": all.exact,
        "text": all.text, "list": list, "row": all.row,
        "maybe": all.maybe.as_ref().map(|w| w.0), "pair": [all.pair.0, all.pair.1],
    })
}

fn choices() -> impl Strategy<Value = Choice> {
    prop_oneof![
        Just(Choice::Nothing),
        any::<i32>().prop_map(Choice::Number),
        any::<(u8, bool)>().prop_map(|(small, flag)| Choice::Both(small, flag)),
        ("[a-zäß]{0,9}", any::<Option<u32>>()).prop_map(|(name, wrapped)| Choice::Named {
            name,
            wrapped: wrapped.map(Wrapped),
        }),
    ]
}

prop_compose! {
    fn everythings()(
        (flag, small, medium, large, huge) in any::<(bool, u8, u16, u32, u64)>(),
        (tiny, short, long, longest) in any::<(i8, i16, i32, i64)>(),
        ratio in any::<f32>().prop_filter("a JSON number", |n| n.is_finite()),
        exact in any::<f64>().prop_filter("a JSON number", |n| n.is_finite()),
        text in "\\PC{0,10}",
        list in prop::collection::vec(choices(), 0..=4),
        row in any::<[u16; 3]>(),
        maybe in any::<Option<u32>>(),
        pair in any::<(u8, i64)>(),
    ) -> Everything {
        Everything {
            flag, small, medium, large, huge, tiny, short, long, longest, ratio, exact, text, list,
            row, maybe: maybe.map(Wrapped), pair: Pair(pair.0, pair.1),
        }
    }
}

proptest! {
    #[test]
    fn bytes_by_schema_are_those_of_the_typed_value_and_back(all in everythings()) {
        let schema = Everything::schema();
        let mut place = vec![0; Everything::ENCODED_MAX];
        let length = Everything::encode(&all, &mut place).unwrap();
        let json = everything_json(&all);
        let bytes = encode(&schema, &json).unwrap();
        prop_assert_eq!(&bytes, &place[..length]);
        prop_assert_eq!(decode(&schema, &bytes).unwrap(), json);
    }

    #[test]
    fn byte_strings_come_back_whatever_they_hold(
        key in prop::collection::vec(any::<u8>(), 0..=60),
        after in any::<u64>(),
    ) {
        let schema = <Borrowed<'static>>::schema();
        let mut place = vec![0; <Borrowed<'static>>::ENCODED_MAX];
        let borrowed = Borrowed { key: &key, after };
        let length = <Borrowed<'static>>::encode(&borrowed, &mut place).unwrap();
        let json = decode(&schema, &place[..length]).unwrap();
        prop_assert_eq!(encode(&schema, &json).unwrap(), &place[..length]);
        let listed = json!({ "key": key, "after": after });
        prop_assert_eq!(encode(&schema, &listed).unwrap(), &place[..length]);
    }

    #[test]
    fn arbitrary_bytes_are_a_value_that_encodes_to_a_typed_one_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let schema = Everything::schema();
        let typed = Everything::decode(&bytes);
        let dynamic = decode(&schema, &bytes);
        if let Ok(json) = dynamic {
            let again = encode(&schema, &json).unwrap();
            prop_assert!(typed.is_some() || again != bytes, "{json}");
        }
    }
}

#[test]
fn examples_are_values() {
    for schema in [Everything::schema(), Borrowed::schema(), Choice::schema()] {
        let example = example(&schema);
        let bytes = encode(&schema, &example).unwrap();
        assert_eq!(decode(&schema, &bytes).unwrap(), example);
    }
}

#[test]
fn an_error_names_the_place_the_type_and_an_example() {
    let schema = Everything::schema();
    let mut json = example(&schema);
    json["list"] = json!([{ "Named": { "name": 5 } }]);
    assert_eq!(
        encode(&schema, &json).unwrap_err().to_string(),
        "list[0].Named.name: expected text (at most 20), found the number 5; for example \"text\""
    );
    json["list"] = json!(["Number"]);
    let error = encode(&schema, &json).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.found.as_str()),
        ("list[0]", "`Number` without its content")
    );
    json["list"] = json!([]);
    json["small"] = json!(256);
    let error = encode(&schema, &json).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.expected.as_str()),
        ("small", "u8")
    );
    json["small"] = json!(1);
    json["extra"] = json!(1);
    let error = encode(&schema, &json).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.found.as_str()),
        ("", "a field `extra`")
    );
    let mut json = example(&schema);
    json.as_object_mut().unwrap().remove("row");
    let error = encode(&schema, &json).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.found.as_str()),
        ("row", "nothing")
    );
    let long = json!({ "key": "a".repeat(61), "after": 1 });
    let error = encode(&Borrowed::schema(), &long).unwrap_err();
    assert_eq!(
        (error.path.as_str(), error.found.as_str()),
        ("key", "61 bytes")
    );
}

#[test]
fn lengths_that_are_not_there_allocate_nothing_and_are_errors() {
    let item = Box::new(TypeSchema::U8);
    let list = TypeSchema::Sequence {
        max: u64::MAX,
        item,
    };
    let claimed = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    assert!(decode(&list, &claimed).is_err());
    let nothing = Box::new(TypeSchema::Struct(Vec::<FieldSchema>::new()));
    let empty = TypeSchema::Sequence {
        max: u64::MAX,
        item: nothing.clone(),
    };
    assert!(decode(&empty, &claimed).is_err());
    let array = TypeSchema::Array {
        length: u64::MAX,
        item: nothing,
    };
    assert!(decode(&array, &[]).is_err());
    assert!(decode(&TypeSchema::Text { max: 9 }, &[2, 0xc3, 0x28]).is_err());
}

#[test]
fn fixed_values_are_their_memory_and_raw_bytes_have_no_length() {
    let field = |name: &str, schema| FieldSchema {
        name: name.to_owned(),
        schema,
    };
    let fixed = TypeSchema::Fixed(Box::new(TypeSchema::Struct(vec![
        field("at", TypeSchema::U32),
        field("level", TypeSchema::I16),
        field("ratio", TypeSchema::F64),
    ])));
    let json = json!({ "at": 300, "level": -2, "ratio": 0.25 });
    let bytes = encode(&fixed, &json).unwrap();
    let mut memory = 300_u32.to_le_bytes().to_vec();
    memory.extend((-2_i16).to_le_bytes());
    memory.extend(0.25_f64.to_le_bytes());
    assert_eq!(bytes, memory);
    assert_eq!(decode(&fixed, &bytes).unwrap(), json);
    let raw = TypeSchema::Raw { max: 3 };
    assert_eq!(encode(&raw, &json!("abc")).unwrap(), b"abc");
    assert_eq!(decode(&raw, b"abc").unwrap(), json!("abc"));
    assert!(encode(&raw, &json!("abcd")).is_err());
    assert!(decode(&raw, b"abcd").is_err());
}
