use quote::quote;

use super::*;

/// What is said about a contract of these options and methods.
fn problems(options: TokenStream, methods: TokenStream) -> Vec<String> {
    match expand(options, quote!(pub trait Sample { #methods })) {
        Ok(expanded) => {
            syn::parse2::<syn::File>(expanded).expect("it is Rust");
            Vec::new()
        }
        Err(error) => error.into_iter().map(|error| error.to_string()).collect(),
    }
}

fn options() -> TokenStream {
    quote!(
        name = "sample",
        major = 1,
        error = SampleError,
        in_flight = 8
    )
}

fn of_methods(methods: TokenStream) -> Vec<String> {
    problems(options(), methods)
}

fn of_options(options: TokenStream) -> Vec<String> {
    problems(
        options,
        quote!(
            #[method(id = 1, deadline = "1s")]
            fn read();
        ),
    )
}

#[test]
fn a_contract_becomes_rust() {
    let methods = quote! {
        /// Documented.
        #[method(id = 1, idempotent, deadline = "250ms")]
        fn get(request: Get<'_>) -> Value<'_>;
        #[method(id = 2, once, deadline = "2m")]
        fn put_all(request: Put<'_>);
        #[method(id = 3, deadline = "100us")]
        fn stats() -> Stats;
    };
    assert_eq!(of_methods(methods), [""; 0]);
}

#[test]
fn all_faulty_methods_are_named_at_once() {
    let methods = quote! {
        #[method(id = 1, idempotent, deadline = "1s")]
        fn get();
        #[method(id = 1, deadline = "1s")]
        fn put();
        #[method(id = 2, deadline = "soon")]
        fn late();
        #[method(id = 3, deadline = "1s")]
        fn get_();
        fn bare();
    };
    let problems = of_methods(methods);
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert_eq!(problems[0], "method number 1 belongs to `get`");
    assert!(
        problems[1].starts_with("expected a whole number and a unit"),
        "{}",
        problems[1]
    );
    assert_eq!(problems[2], "the name collides with that of `get`");
    assert!(
        problems[3].starts_with("a method needs its options"),
        "{}",
        problems[3]
    );
}

#[test]
fn options_of_a_method_are_checked() {
    for (attribute, expected) in [
        (
            quote!(#[method(id = 0, deadline = "1s")]),
            "expected a number from 1 to 65535",
        ),
        (
            quote!(#[method(id = 65536, deadline = "1s")]),
            "expected a number from 1 to 65535",
        ),
        (quote!(#[method(id = 1)]), "a method needs its `deadline"),
        (quote!(#[method(deadline = "1s")]), "a method needs its `id"),
        (
            quote!(#[method(id = 1, deadline = "0s")]),
            "expected a whole number and a unit",
        ),
        (
            quote!(#[method(id = 1, deadline = "1h")]),
            "expected a whole number and a unit",
        ),
        (
            quote!(#[method(id = 1, deadline = "s")]),
            "expected a whole number and a unit",
        ),
        (
            quote!(#[method(id = 1, once, idempotent, deadline = "1s")]),
            "a method is `idempotent`",
        ),
        (
            quote!(#[method(id = 1, twice, deadline = "1s")]),
            "unknown option of a method",
        ),
        (quote!(#[inline]), "a method has no attributes but"),
    ] {
        let problems = of_methods(quote!(#attribute fn read();));
        assert!(
            problems[0].starts_with(expected),
            "{attribute}: {problems:?}"
        );
    }
}

#[test]
fn signatures_of_methods_are_checked() {
    for (signature, expected) in [
        (
            quote!(
                fn read(&self);
            ),
            "a method takes one request",
        ),
        (
            quote!(
                fn read(one: A, other: B);
            ),
            "a method takes one request",
        ),
        (
            quote!(
                async fn read();
            ),
            "expected `fn name",
        ),
        (
            quote!(
                fn read<T>(one: T);
            ),
            "expected `fn name",
        ),
        (
            quote!(
                fn read() {}
            ),
            "a method of a contract has no body",
        ),
        (
            quote!(
                fn connection();
            ),
            "`connection` is a name of the client's own",
        ),
    ] {
        let problems = of_methods(quote!(#[method(id = 1, deadline = "1s")] #signature));
        assert!(
            problems[0].starts_with(expected),
            "{signature}: {problems:?}"
        );
    }
    assert_eq!(
        of_methods(quote!()),
        ["a contract needs a method or a stream"]
    );
    assert_eq!(
        of_methods(quote!(
            type A;
        ))[0],
        "a contract consists of methods and streams"
    );
}

#[test]
fn options_of_a_contract_are_checked() {
    for (options, expected) in [
        (quote!(major = 1, error = E), "a contract needs its `name"),
        (
            quote!(name = "sample", error = E),
            "a contract needs its `major",
        ),
        (
            quote!(name = "sample", major = 1),
            "a contract needs its `error",
        ),
        (
            quote!(name = "Sample", major = 1, error = E),
            "a contract's name has",
        ),
        (
            quote!(name = "sample-", major = 1, error = E),
            "a contract's name has",
        ),
        (
            quote!(name = "", major = 1, error = E),
            "a contract's name has",
        ),
        (
            quote!(name = "sample", major = 70000, error = E),
            "expected a number from 0 to 65535",
        ),
        (
            quote!(name = "sample", major = 1, error = E, in_flight = 0),
            "expected a number from 1 to 1024",
        ),
        (
            quote!(name = "sample", colour = 1),
            "unknown option of a contract",
        ),
    ] {
        let problems = of_options(options.clone());
        assert!(problems[0].starts_with(expected), "{options}: {problems:?}");
    }
}

#[test]
fn names_are_rewritten_for_types_and_modules() {
    let ident = |text| Ident::new(text, Span::call_site());
    assert_eq!(camel(&ident("compare_and_swap")), "CompareAndSwap");
    assert_eq!(snake(&ident("RoomRates")), "room_rates");
}

#[test]
fn a_contract_with_streams_becomes_rust() {
    let items = quote! {
        #[method(id = 1, deadline = "1s")]
        fn read();
        /// Documented.
        #[stream(id = 1, latest)]
        fn price() -> Price;
        #[stream(id = 2, lossless, buffer = 64, history = 8, slow = disconnect)]
        fn trades() -> Trade<'_>;
    };
    assert_eq!(of_methods(items), [""; 0]);
    let alone = quote!(
        #[stream(id = 1, latest, history = 0)]
        fn price() -> Price;
    );
    assert_eq!(of_methods(alone), [""; 0]);
}

#[test]
fn streams_are_checked() {
    let of = |attribute: TokenStream, signature: TokenStream| {
        of_methods(quote!(#attribute #signature)).remove(0)
    };
    for (attribute, expected) in [
        (quote!(#[stream(latest)]), "a stream needs its `id"),
        (
            quote!(#[stream(id = 1)]),
            "a stream needs to be `latest` or `lossless`",
        ),
        (
            quote!(#[stream(id = 0, latest)]),
            "expected a number from 1 to 65535",
        ),
        (
            quote!(#[stream(id = 1, latest, lossless)]),
            "a stream is `latest` or `lossless`, not both",
        ),
        (
            quote!(#[stream(id = 1, latest, buffer = 2)]),
            "a `latest` stream has no buffer",
        ),
        (
            quote!(#[stream(id = 1, latest, history = 2)]),
            "expected a number from 0 to 1",
        ),
        (
            quote!(#[stream(id = 1, latest, slow = wait)]),
            "a subscriber of a `latest` stream is never too slow",
        ),
        (
            quote!(#[stream(id = 1, lossless, buffer = 0)]),
            "expected a number from 1 to 4096",
        ),
        (
            quote!(#[stream(id = 1, lossless, buffer = 4, history = 5)]),
            "the history has to fit into the buffer, which is 4",
        ),
        (
            quote!(#[stream(id = 1, lossless, slow = drop)]),
            "expected `wait` or `disconnect`",
        ),
        (
            quote!(#[stream(id = 1, lossless, deadline = "1s")]),
            "unknown option of a stream",
        ),
        (
            quote!(#[stream(id = 1, latest)] #[inline]),
            "a stream has no attributes but",
        ),
    ] {
        let problem = of(
            attribute.clone(),
            quote!(
                fn price() -> Price;
            ),
        );
        assert!(problem.starts_with(expected), "{attribute}: {problem}");
    }
    for (signature, expected) in [
        (
            quote!(
                fn price(request: A) -> Price;
            ),
            "a stream takes no request",
        ),
        (
            quote!(
                fn price();
            ),
            "expected `fn name() -> Item;`",
        ),
        (
            quote!(
                fn price() -> Price {}
            ),
            "a stream of a contract has no body",
        ),
    ] {
        let problem = of(quote!(#[stream(id = 1, latest)]), signature.clone());
        assert!(problem.starts_with(expected), "{signature}: {problem}");
    }
    let collisions = of_methods(quote! {
        #[method(id = 1, deadline = "1s")]
        fn price();
        #[stream(id = 1, latest)]
        fn price() -> Price;
        #[stream(id = 1, latest)]
        fn other() -> Price;
        #[method(id = 2, deadline = "1s")]
        fn streams();
    });
    assert_eq!(
        collisions,
        [
            "the name collides with that of `price`",
            "stream number 1 belongs to `price`",
            "`streams` is a name of the server's own in a contract that has streams",
        ]
    );
}

#[test]
fn streaming_methods_and_keys_are_checked() {
    let methods = quote! {
        #[method(id = 1, streaming, idempotent, deadline = "5s", key = user)]
        fn scan(request: Scan<'_>) -> Entry<'_>;
        #[method(id = 2, streaming, deadline = "5s")]
        fn all() -> Entry<'_>;
    };
    assert_eq!(of_methods(methods), [""; 0]);
    for (attribute, expected) in [
        (
            quote!(#[method(id = 1, streaming, once, deadline = "1s")]),
            "a reply of many items is not recorded",
        ),
        (
            quote!(#[method(id = 1, key = user, deadline = "1s")]),
            "a method without a request has no key",
        ),
        (
            quote!(#[method(id = 1, key = "user", deadline = "1s")]),
            "expected identifier",
        ),
    ] {
        let problems = of_methods(quote!(#attribute fn read() -> Entry;));
        assert!(
            problems[0].starts_with(expected),
            "{attribute}: {problems:?}"
        );
    }
}
