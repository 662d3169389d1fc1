//! The attribute of the guest crate `wasmjob`; use it from there.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::spanned::Spanned as _;
use syn::{Error, FnArg, ItemFn, ReturnType, Signature, Type};

/// Makes `main` a job. See the documentation of the crate `wasmjob`.
#[proc_macro_attribute]
pub fn main(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let arguments = Tokens::from(arguments);
    let expanded = syn::parse::<ItemFn>(item).and_then(|function| expand(&arguments, &function));
    expanded.unwrap_or_else(|error| error.to_compile_error()).into()
}

/// `main` moves into `__wasmjob_job`, which has the same signature in every job; a real `main` and
/// the component's export call that.
fn expand(arguments: &Tokens, function: &ItemFn) -> Result<Tokens, Error> {
    check(arguments, &function.sig)?;
    let call = match function.sig.inputs.first() {
        Some(_) => quote!(main(::wasmjob::__private::input(__input)?)),
        None => quote!(main()),
    };
    let outcome = match &function.sig.output {
        ReturnType::Type(_, ty) if is_result(ty) => quote!(::wasmjob::__private::result(#call)),
        _ => quote!(::wasmjob::__private::output(#call)),
    };
    Ok(quote! {
        #[allow(dead_code, unused_variables, clippy::unit_arg)]
        fn __wasmjob_job(
            __input: ::wasmjob::Input,
        ) -> ::std::result::Result<::wasmjob::Output, ::wasmjob::Error> {
            // An input is handed over whether the job uses it up or not.
            #[allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps)]
            #function
            #outcome
        }

        #[allow(dead_code)]
        fn main() -> ::std::process::ExitCode {
            ::wasmjob::__private::command(__wasmjob_job)
        }

        ::wasmjob::__export!(__wasmjob_job);
    })
}

fn check(arguments: &Tokens, signature: &Signature) -> Result<(), Error> {
    let refuse = |at: proc_macro2::Span, why: &str| Err(Error::new(at, why));
    if !arguments.is_empty() {
        return refuse(arguments.span(), "#[wasmjob::main] takes no arguments");
    }
    if signature.ident != "main" {
        return refuse(signature.ident.span(), "#[wasmjob::main] goes on `fn main`");
    }
    if let Some(asyncness) = &signature.asyncness {
        return refuse(asyncness.span(), "a job is not async: it has its thread to itself");
    }
    if !signature.generics.params.is_empty() {
        return refuse(signature.generics.span(), "a job cannot be generic: name the type of its input");
    }
    match signature.inputs.iter().nth(1) {
        Some(FnArg::Receiver(second)) => refuse(second.span(), TOO_MANY),
        Some(FnArg::Typed(second)) => refuse(second.span(), TOO_MANY),
        None => Ok(()),
    }
}

const TOO_MANY: &str = "a job takes one input: put what belongs together in a struct that derives Deserialize";

/// By name, because a `Result` is a serde value too and the compiler could not tell which is meant.
fn is_result(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| last.ident == "Result"),
        Type::Group(group) => is_result(&group.elem),
        Type::Paren(paren) => is_result(&paren.elem),
        _ => false,
    }
}
