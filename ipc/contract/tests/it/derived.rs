//! Derived messages are what their schemas say, byte for byte.

use insula_contract::schema::TypeSchema;
use insula_ipc::Message;
use insula_ipc::contract::Message;
use insula_ipc::payload::{Bytes, InPlace, Text};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::{self, Choices};

const KEY_MAX: usize = 500;

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Numbers {
    truth: bool,
    a: u8,
    b: u16,
    c: u32,
    d: u64,
    e: i8,
    f: i16,
    g: i32,
    h: i64,
    x: f32,
    y: f64,
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Entry<'a> {
    #[message(max = KEY_MAX)]
    key: &'a [u8],
    #[message(max = 1 << 20)]
    value: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Nothing;

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Pair(u16, #[message(max = 9)] String);

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
enum Choice<'a> {
    Plain,
    New(Entry<'a>),
    Two(u8, i64),
    Named {
        #[message(max = 30)]
        text: Text<'a>,
        pair: Pair,
    },
    Empty {},
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc, max = 2000)]
struct Everything<'a> {
    numbers: Numbers,
    #[message(max = 5)]
    entries: Vec<Entry<'a>>,
    #[message(max = [3, 20])]
    texts: Option<Vec<Text<'a>>>,
    nothing: Nothing,
    nothings: [Nothing; 2],
    hash: [u8; 20],
    #[message(max = 4)]
    names: [Option<String>; 2],
    #[message(max = 12)]
    owned: Vec<u8>,
    choice: Choice<'a>,
    #[message(max = 6)]
    choices: Vec<Choice<'a>>,
    unit: (),
    r#type: u8,
    f12: u8,
    f13: u8,
    f14: u8,
    f15: u8,
    f16: Option<Option<u8>>,
    f17: i16,
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
enum Never {}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc, fixed)]
#[repr(C)]
struct Point {
    x: f64,
    y: i64,
    weights: [[u16; 2]; 3],
    kind: u8,
    signs: [i8; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(crate = insula_ipc, fixed)]
#[repr(C)]
struct Path {
    points: [Point; 2],
    length: u64,
}

/// A rich message with fixed parts, one of them limited once more.
#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc)]
struct Route<'a> {
    name: Short<'a>,
    #[message(max = 3)]
    paths: Vec<Path>,
}

#[derive(Debug, Clone, PartialEq, Message)]
#[message(crate = insula_ipc, max = 12)]
struct Short<'a> {
    #[message(max = 10)]
    first: Text<'a>,
    #[message(max = 10)]
    second: Text<'a>,
}

/// As serde's own derive makes it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct PlainEntry {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// As serde's own derive makes it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum PlainChoice {
    Plain,
    New(PlainEntry),
    Two(u8, i64),
    Named { text: String, pair: (u16, String) },
    Empty {},
}

fn encoded<M: Message>(value: &M::View<'_>) -> Option<Vec<u8>> {
    // A chunk may be longer than the longest value.
    let mut place = vec![0; M::ENCODED_MAX + 64];
    let length = M::encode(value, &mut place)?;
    place.truncate(length);
    Some(place)
}

/// Values of the schema and values of the type are the same bytes.
fn agrees<M: Message>(choices: &mut Choices) -> Result<(), TestCaseError> {
    let schema = M::schema();
    let Some(value) = model::value(&schema, choices) else {
        return Ok(());
    };
    let bytes = model::encode(&schema, &value);
    let decoded = M::decode(&bytes);
    prop_assert!(decoded.is_some(), "{value:?}");
    prop_assert_eq!(encoded::<M>(&decoded.unwrap()), Some(bytes.clone()));

    // Whatever else arrives is refused by both or means the same to both.
    let mut damaged = bytes;
    if !damaged.is_empty() {
        let at = choices.below(damaged.len() as u32) as usize;
        damaged[at] = choices.below(256) as u8;
        damaged.truncate(damaged.len() - choices.below(2) as usize);
        // What a limit does not let be encoded again is the channel's to refuse.
        if let Some(decoded) = M::decode(&damaged)
            && let Some(again) = encoded::<M>(&decoded)
            && damaged.starts_with(&again)
        {
            prop_assert!(model::decode(&schema, &again).is_some(), "{decoded:?}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn derived_messages_are_what_their_schemas_say(
        choices in prop::collection::vec(any::<u32>(), 0..400)
    ) {
        let mut choices = Choices::new(choices);
        agrees::<Numbers>(&mut choices)?;
        agrees::<Pair>(&mut choices)?;
        agrees::<Choice<'static>>(&mut choices)?;
        agrees::<Everything<'static>>(&mut choices)?;
        agrees::<Path>(&mut choices)?;
        agrees::<Route<'static>>(&mut choices)?;
        agrees::<Bytes<'static, 9>>(&mut choices)?;
    }

    #[test]
    fn arbitrary_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = postcard::from_bytes::<Everything<'_>>(&bytes);
        let _ = postcard::from_bytes::<Choice<'_>>(&bytes);
        prop_assert!(postcard::from_bytes::<Never>(&bytes).is_err());
    }
}

#[test]
fn the_greatest_lengths_are_those_of_the_schemas() {
    fn check<M: Message>() {
        assert_eq!(
            M::ENCODED_MAX as u64,
            M::schema().encoded_max(),
            "{:?}",
            M::schema()
        );
    }
    check::<Numbers>();
    check::<Entry<'static>>();
    check::<Nothing>();
    check::<Pair>();
    check::<Choice<'static>>();
    check::<Everything<'static>>();
    check::<Never>();
    check::<Path>();
    check::<InPlace<'static, Path>>();
    check::<Route<'static>>();
    check::<Bytes<'static, 9>>();
    check::<()>();
    check::<bool>();
    check::<i64>();
    assert_eq!(
        Numbers::ENCODED_MAX,
        1 + 1 + 3 + 5 + 10 + 1 + 3 + 5 + 10 + 4 + 8
    );
    assert_eq!(Entry::ENCODED_MAX, 2 + 500 + 3 + (1 << 20));
    assert_eq!(Everything::ENCODED_MAX, 2000);
}

#[test]
fn the_greatest_values_take_the_greatest_length() {
    let numbers = Numbers {
        truth: true,
        a: u8::MAX,
        b: u16::MAX,
        c: u32::MAX,
        d: u64::MAX,
        e: i8::MIN,
        f: i16::MIN,
        g: i32::MIN,
        h: i64::MIN,
        x: 1.0,
        y: 1.0,
    };
    assert_eq!(
        postcard::to_stdvec(&numbers).unwrap().len(),
        Numbers::ENCODED_MAX
    );
    let value = vec![7; 1 << 20];
    let entry = Entry {
        key: &value[..KEY_MAX],
        value: &value,
    };
    assert_eq!(
        postcard::to_stdvec(&entry).unwrap().len(),
        Entry::ENCODED_MAX
    );
}

#[test]
fn the_bytes_are_those_of_serde_and_postcard() {
    let (key, value) = (b"key".to_vec(), vec![200; 300]);
    let entry = || PlainEntry {
        key: key.clone(),
        value: value.clone(),
    };
    let pairs = [
        (Choice::Plain, PlainChoice::Plain),
        (
            Choice::New(Entry {
                key: &key,
                value: &value,
            }),
            PlainChoice::New(entry()),
        ),
        (Choice::Two(9, -70_000), PlainChoice::Two(9, -70_000)),
        (
            Choice::Named {
                text: "text".into(),
                pair: Pair(300, "nine".into()),
            },
            PlainChoice::Named {
                text: "text".into(),
                pair: (300, "nine".into()),
            },
        ),
        (Choice::Empty {}, PlainChoice::Empty {}),
    ];
    for (derived, plain) in pairs {
        let bytes = postcard::to_stdvec(&derived).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&plain).unwrap());
        assert_eq!(postcard::from_bytes::<Choice<'_>>(&bytes).unwrap(), derived);
        assert_eq!(postcard::from_bytes::<PlainChoice>(&bytes).unwrap(), plain);
    }
}

#[test]
fn texts_and_bytes_are_read_in_place() {
    let bytes = postcard::to_stdvec(&Entry {
        key: b"key",
        value: b"value",
    })
    .unwrap();
    let entry: Entry<'_> = postcard::from_bytes(&bytes).unwrap();
    assert!(bytes.as_ptr_range().contains(&entry.value.as_ptr()));
}

#[test]
fn capacities_hold_when_writing_and_when_reading() {
    let long = Pair(1, "0123456789".into());
    assert!(postcard::to_stdvec(&long).is_err());
    let bytes = postcard::to_stdvec(&(1_u16, "0123456789")).unwrap();
    assert!(postcard::from_bytes::<Pair>(&bytes).is_err());
    let bytes = postcard::to_stdvec(&(1_u16, "012345678")).unwrap();
    assert_eq!(
        postcard::from_bytes::<Pair>(&bytes).unwrap(),
        Pair(1, "012345678".into())
    );

    let key = [0; KEY_MAX + 1];
    assert!(
        postcard::to_stdvec(&Entry {
            key: &key,
            value: b""
        })
        .is_err()
    );
    let bytes = postcard::to_stdvec(&(&key[..], b"")).unwrap();
    assert!(postcard::from_bytes::<Entry<'_>>(&bytes).is_err());
}

#[test]
fn a_limit_of_a_whole_holds_for_it_and_for_it_as_a_part() {
    let short = |second| Short {
        first: "12345".into(),
        second,
    };
    let route = |second| Route {
        name: short(second),
        paths: vec![],
    };
    let (fits, exceeds) = (Text::new("12345"), Text::new("123456"));
    assert_eq!(encoded::<Short<'static>>(&short(fits)).unwrap().len(), 12);
    assert_eq!(encoded::<Short<'static>>(&short(exceeds)), None);
    assert_eq!(encoded::<Route<'static>>(&route(fits)).unwrap().len(), 13);
    assert_eq!(encoded::<Route<'static>>(&route(exceeds)), None);
}

#[test]
fn fixed_messages_are_one_class_however_they_are_read() {
    assert_eq!(Path::schema(), <InPlace<'static, Path>>::schema());
    let path = Path {
        points: [Point {
            x: -0.5,
            y: -7,
            weights: [[1, 2], [3, 4], [5, 0xabcd]],
            kind: 9,
            signs: [-1, 0, 1],
        }; 2],
        length: 0x0102_0304_0506_0708,
    };
    let bytes = encoded::<Path>(&path).unwrap();
    assert_eq!(
        encoded::<InPlace<'static, Path>>(&InPlace::of(&path)).unwrap(),
        bytes
    );
    assert_eq!(bytes.len(), size_of::<Path>());
    assert_eq!(Path::decode(&bytes), Some(path));
    let seen = InPlace::<Path>::decode(&bytes).unwrap();
    let second = seen.points().item(1).unwrap();
    assert_eq!(second.y().get(), -7);
    assert_eq!(second.weights().item(2).unwrap().get(), [5, 0xabcd]);
    assert_eq!(second.kind().get(), 9);
    assert_eq!(seen.length().get(), path.length);
}

#[test]
fn a_claimed_length_allocates_nothing() {
    #[derive(Debug, Message)]
    #[message(crate = insula_ipc)]
    struct Greedy {
        #[message(max = 1 << 50)]
        items: Vec<[u64; 30]>,
    }
    // 2^49 items are claimed, and more bytes than that many items of one byte do not follow.
    let mut bytes = vec![0x80; 7];
    bytes.push(1);
    bytes.extend([1; 1000]);
    assert!(postcard::from_bytes::<Greedy>(&bytes).is_err());
}

#[test]
fn a_text_is_utf8() {
    let mut bytes = postcard::to_stdvec(&Pair(1, "abc".into())).unwrap();
    *bytes.last_mut().unwrap() = 0xff;
    assert!(postcard::from_bytes::<Pair>(&bytes).is_err());
}

#[test]
fn schemas_name_their_parts() {
    let TypeSchema::Limited { max: 2000, item } = Everything::schema() else {
        panic!("{:?}", Everything::schema());
    };
    let TypeSchema::Struct(fields) = *item else {
        panic!("{item:?}");
    };
    assert_eq!(fields[2].name, "texts");
    assert_eq!(
        fields[2].schema,
        TypeSchema::Option(Box::new(TypeSchema::Sequence {
            max: 3,
            item: Box::new(TypeSchema::Text { max: 20 }),
        }))
    );
    assert_eq!(fields[7].schema, TypeSchema::Bytes { max: 12 });
    assert_eq!(fields[11].name, "type");
}
