use quote::quote;

use super::*;

fn problems(item: TokenStream) -> Vec<String> {
    match expand(item) {
        Ok(expanded) => {
            syn::parse2::<syn::File>(expanded).expect("it is Rust");
            Vec::new()
        }
        Err(error) => error.into_iter().map(|error| error.to_string()).collect(),
    }
}

fn of_field(field: TokenStream) -> Vec<String> {
    problems(quote!(struct Sample<'a> { #field }))
}

#[test]
fn whatever_has_no_length_of_its_own_needs_one() {
    for (ty, unit) in [
        (quote!(String), "bytes"),
        (quote!(std::string::String), "bytes"),
        (quote!(Text<'a>), "bytes"),
        (quote!(&'a [u8]), "bytes"),
        (quote!(Vec<u8>), "bytes"),
        (quote!(Vec<Entry<'a>>), "items"),
        (quote!(Option<Vec<u64>>), "items"),
        (quote!([Option<String>; 3]), "bytes"),
    ] {
        let expected = format!("needs its greatest length in {unit}: `#[message(max = N)]`");
        assert_eq!(of_field(quote!(field: #ty)), [expected], "{ty}");
        assert_eq!(
            of_field(quote!(#[message(max = 5)] field: #ty)),
            [""; 0],
            "{ty}"
        );
    }
}

#[test]
fn each_level_needs_its_length() {
    let nested = quote!(field: Vec<Option<payload::Text<'a>>>);
    let problem = &of_field(quote!(#[message(max = 5)] #nested))[0];
    assert!(
        problem.starts_with("one greatest length is missing"),
        "{problem}"
    );
    assert_eq!(of_field(quote!(#[message(max = [5, 6])] #nested)), [""; 0]);
    let problem = &of_field(quote!(#[message(max = [5, 6, 7])] #nested))[0];
    assert!(
        problem.starts_with("only texts, byte strings and sequences"),
        "{problem}"
    );
    let problem = &of_field(quote!(#[message(max = 5)] field: u64))[0];
    assert!(
        problem.starts_with("only texts, byte strings and sequences"),
        "{problem}"
    );
}

#[test]
fn types_without_a_fixed_meaning_are_refused() {
    for (ty, expected) in [
        (quote!(usize), "not a type of messages: numbers are"),
        (quote!(char), "not a type of messages: numbers are"),
        (
            quote!(&'a str),
            "a `&str` in shared memory could be changed by its writer: use `Text<'a>`",
        ),
        (quote!(&'a u64), "only `&[u8]` and `Text` are read in place"),
        (
            quote!(&'a [u16]),
            "only `&[u8]` and `Text` are read in place",
        ),
        (quote!(&'a mut str), "not a type of messages"),
        (quote!((u8, u8)), "not a type of messages"),
        (quote!(*const u8), "not a type of messages"),
        (quote!(fn()), "not a type of messages"),
    ] {
        let problems = of_field(quote!(field: #ty));
        assert!(problems[0].starts_with(expected), "{ty}: {problems:?}");
    }
}

#[test]
fn all_faulty_fields_are_named_at_once() {
    let item = quote! {
        enum Sample<T> {
            A { text: String, size: usize },
            B(Vec<u8>) = 4,
        }
    };
    assert_eq!(problems(item).len(), 5);
}

#[test]
fn options_are_checked() {
    for item in [
        quote!(
            #[message(size = 4)]
            struct Sample;
        ),
        quote!(
            struct Sample {
                #[message(size = 4)]
                field: u8,
            }
        ),
        quote!(
            struct Sample {
                #[message(max = 4, max = 5)]
                field: String,
            }
        ),
        quote!(
            enum Sample {
                #[message(max = 4)]
                A(u8),
            }
        ),
        quote!(union Sample { a: u8 }),
        quote!(
            struct Sample<'a, 'b> {
                a: Entry<'a>,
                b: Entry<'b>,
            }
        ),
    ] {
        assert_eq!(problems(item.clone()).len(), 1, "{item}");
    }
}

#[test]
fn many_fields_are_groups_of_tuples() {
    let items = (0..20).map(|number| quote!(#number)).collect();
    let nested: syn::ExprTuple = syn::parse2(tuple(items)).unwrap();
    assert_eq!(nested.elems.len(), 2);
}

#[test]
fn a_fixed_layout_is_checked() {
    let fields = quote!({ x: f64, y: [u16; 4] });
    assert_eq!(
        problems(quote!(#[message(fixed)] #[repr(C)] struct Point #fields)),
        [""; 0]
    );
    assert_eq!(
        problems(quote!(
            #[message(fixed)]
            #[repr(C, align(16))]
            struct Pair(u64, u64);
        )),
        [""; 0]
    );
    for (item, expected) in [
        (
            quote!(#[message(fixed)] struct Point #fields),
            "a fixed layout needs `#[repr(C)]`",
        ),
        (
            quote!(#[message(fixed)] #[repr(C, packed)] struct Point #fields),
            "a packed struct does not lie",
        ),
        (
            quote!(
                #[message(fixed)]
                #[repr(u8)]
                enum Kind {
                    A,
                }
            ),
            "only a struct has a fixed layout",
        ),
        (
            quote!(
                #[message(fixed)]
                #[repr(C)]
                struct Point<'a> {
                    x: &'a [u8],
                }
            ),
            "a message of a fixed layout borrows nothing",
        ),
        (
            quote!(#[message(fixed, max = 3)] #[repr(C)] struct Point #fields),
            "a fixed layout has one length",
        ),
        (
            quote!(
                #[message(fixed)]
                #[repr(C)]
                struct Point {
                    #[message(max = 3)]
                    x: u8,
                }
            ),
            "a field of a fixed layout has no options",
        ),
        (
            quote!(#[message(flat)] struct Point #fields),
            "unknown option of a message; known: `max`, `fixed`, `crate`",
        ),
    ] {
        let problems = problems(item.clone());
        assert!(problems[0].starts_with(expected), "{item}: {problems:?}");
    }
}
