use super::*;

fn wanted(text: &str) -> Wanted {
    Wanted::parse(text).unwrap()
}

fn allowed(entries: &[&str]) -> Vec<Allowed> {
    entries.iter().map(|entry| Allowed::parse(entry).unwrap()).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn targets_have_one_spelling() {
    for (text, spelling) in [
        ("example.com:443", "example.com:443"),
        ("EXAMPLE.Com.:0443", "example.com:443"),
        ("localhost:1", "localhost:1"),
        ("a-b.c1:65535", "a-b.c1:65535"),
        ("xn--bcher-kva.example:80", "xn--bcher-kva.example:80"),
        ("192.0.2.1:80", "192.0.2.1:80"),
        ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
    ] {
        assert_eq!(parse_target(text, true).as_deref(), Ok(spelling), "{text}");
        assert_eq!(parse_target(spelling, true).as_deref(), Ok(spelling), "{text}");
    }
    for (text, spelling) in [("Example.com", "example.com"), ("192.0.2.1", "192.0.2.1"), ("[::1]", "[::1]")] {
        assert_eq!(parse_target(text, false).as_deref(), Ok(spelling));
        assert!(parse_target(text, true).unwrap_err().contains("a port is wanted"), "{text}");
    }
}

#[test]
fn what_is_no_target_is_refused_with_what_is_wanted() {
    let long_name = format!("{}:80", ["a".repeat(63).as_str(); 4].join("."));
    let long_label = format!("{}.example:80", "a".repeat(64));
    for (text, why) in [
        ("", "a host is wanted"),
        (":80", "a host is wanted"),
        (".:80", "a host"),
        ("*:80", "one host"),
        ("*.example.com:80", "one host"),
        ("example.com:*", "one port"),
        ("example.com:", "from 1 to 65535"),
        ("example.com:0", "from 1 to 65535"),
        ("example.com:65536", "from 1 to 65535"),
        ("example.com:+80", "from 1 to 65535"),
        ("example.com:80:80", "in brackets"),
        ("2001:db8::1:80", "in brackets"),
        ("[2001:db8::1:80", "no `]`"),
        ("[2001:db8::1]80", "`:PORT`"),
        ("[192.0.2.1]:80", "only IPv6"),
        ("[fe80::1%eth0]:80", "letters"),
        ("10.0.0.0/8:80", "letters"),
        ("http://example.com:80", "no URL"),
        ("user@example.com:80", "letters"),
        ("exa mple.com:80", "letters"),
        ("b\u{fc}cher.example:80", "xn--"),
        ("-a.example:80", "letters"),
        ("a..example:80", "letters"),
        ("a_b.example:80", "letters"),
        ("127.1:80", "four decimal"),
        ("2130706433:80", "four decimal"),
        ("0x7f000001:80", "four decimal"),
        ("127.0.0.0x1:80", "four decimal"),
        ("1.2.3.256:80", "four decimal"),
        (&long_name, "253"),
        (&long_label, "letters"),
    ] {
        let error = parse_target(text, true).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn an_operator_allows_hosts_domains_ports_and_ranges() {
    for (entry, target, is_allowed) in [
        ("db.example.com:5432", "db.example.com:5432", true),
        ("DB.example.com:5432", "db.example.com:5432", true),
        ("db.example.com:5432", "db.example.com:5433", false),
        ("db.example.com:*", "db.example.com:1", true),
        ("db.example.com", "db.example.com:1", true),
        ("*.example.com:443", "a.b.example.com:443", true),
        ("*.example.com:443", "example.com:443", false),
        ("*.example.com:443", "notexample.com:443", false),
        ("*.example.com:443", "a.example.com:80", false),
        ("*:443", "anything.example:443", true),
        ("*:443", "anything.example:80", false),
        ("*", "anything.example:1", true),
        ("*", "8.8.8.8:53", true),
        ("*", "10.0.0.1:53", false),
        ("*", "[::1]:53", false),
        ("*.1:53", "10.0.0.1:53", false),
        ("10.0.0.0/8:5432", "10.1.2.3:5432", true),
        ("10.0.0.0/8:5432", "10.1.2.3:5433", false),
        ("10.0.0.0/8:5432", "11.0.0.1:5432", false),
        ("10.0.0.0/8:5432", "db.example.com:5432", false),
        ("0.0.0.0/0", "127.0.0.1:1", true),
        ("0.0.0.0/0", "[::1]:1", false),
        ("127.0.0.1:80", "127.0.0.1:80", true),
        ("127.0.0.1:80", "localhost:80", false),
        ("[fd00::/8]:80", "[fd12::1]:80", true),
        ("[::/0]:80", "[fd12::1]:80", true),
        ("[::1]:80", "[::1]:80", true),
        // Without a port both are asked for.
        ("a.example", "a.example", true),
        ("a.example:443", "a.example", false),
    ] {
        let Ok(entry_read) = Allowed::parse(entry) else {
            assert!(!is_allowed, "{entry}");
            continue;
        };
        assert_eq!(allows(&[entry_read], &wanted(target)), is_allowed, "{entry} {target}");
    }
    assert!(allows(&allowed(&["a.example:80", "a.example:443"]), &wanted("a.example")));
    assert!(!allows(&[], &wanted("a.example:80")));
}

#[test]
fn what_is_no_entry_is_refused_with_what_is_wanted() {
    for (entry, why) in [
        ("", "a host is wanted"),
        ("a.*.example:80", "letters"),
        ("*example.com", "letters"),
        ("10.0.0.0/33", "range"),
        ("10.0.0.0/x", "range"),
        ("10.0.0.0/", "range"),
        ("10.0.0.1/8", "after the first 8"),
        ("[fd00::1/8]:80", "after the first 8"),
        ("example.com/24", "range"),
        ("a.example:http", "from 1 to 65535"),
    ] {
        let error = Allowed::parse(entry).unwrap_err();
        assert!(error.contains(why), "{entry}: {error}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn addresses_that_are_not_public_are_known_in_every_form() {
    for (address, range) in [
        ("0.0.0.0", "0.0.0.0/8"),
        ("0.1.2.3", "0.0.0.0/8"),
        ("10.255.255.255", "10.0.0.0/8"),
        ("100.64.0.1", "100.64.0.0/10"),
        ("100.127.255.255", "100.64.0.0/10"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("127.255.0.1", "127.0.0.0/8"),
        ("169.254.169.254", "169.254.0.0/16"),
        ("172.16.0.1", "172.16.0.0/12"),
        ("172.31.255.255", "172.16.0.0/12"),
        ("192.0.0.1", "192.0.0.0/24"),
        ("192.0.2.1", "192.0.2.0/24"),
        ("192.168.1.1", "192.168.0.0/16"),
        ("198.18.0.1", "198.18.0.0/15"),
        ("198.19.255.255", "198.18.0.0/15"),
        ("198.51.100.1", "198.51.100.0/24"),
        ("203.0.113.1", "203.0.113.0/24"),
        ("224.0.0.1", "224.0.0.0/4"),
        ("239.255.255.255", "224.0.0.0/4"),
        ("240.0.0.1", "240.0.0.0/4"),
        ("255.255.255.255", "240.0.0.0/4"),
        ("::", "::/128"),
        ("::1", "::1/128"),
        ("::7f00:1", "127.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.0/8"),
        ("::ffff:169.254.169.254", "169.254.0.0/16"),
        ("64:ff9b::10.0.0.1", "10.0.0.0/8"),
        ("64:ff9b:1::1", "64:ff9b:1::/48"),
        ("2002:a00:1::", "10.0.0.0/8"),
        ("2002:7f00:1::1", "127.0.0.0/8"),
        ("2001::1", "2001::/23"),
        ("2001:db8::1", "2001:db8::/32"),
        ("3fff::1", "3fff::/20"),
        ("100::1", "2000::/3"),
        ("5f00::1", "2000::/3"),
        ("fc00::1", "fc00::/7"),
        ("fd12:3456::1", "fc00::/7"),
        ("fe80::1", "fe80::/10"),
        ("febf::1", "fe80::/10"),
        ("fec0::1", "fec0::/10"),
        ("fe00::1", "2000::/3"),
        ("ff02::1", "ff00::/8"),
    ] {
        let found = special_range(address.parse().unwrap()).unwrap_or_else(|| panic!("{address} is public"));
        assert!(found.contains(range), "{address}: {found}");
    }
    for address in [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.0.1",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.167.0.1",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:101:101::1",
    ] {
        assert_eq!(special_range(address.parse().unwrap()), None, "{address}");
    }
}

#[test]
fn addresses_that_are_not_public_are_left_out_unless_they_are_named() {
    let found = addresses(&["10.1.2.3", "1.1.1.1", "1.1.1.1", "::ffff:1.0.0.1", "::1"]);
    let public = addresses(&["1.1.1.1", "1.0.0.1"]);
    for (entries, kept) in [
        (vec!["*:80"], public.clone()),
        (vec!["*.example:80"], public.clone()),
        (vec!["*:80", "10.0.0.0/8:81"], public),
        (vec!["*:80", "10.0.0.0/8:80"], addresses(&["10.1.2.3", "1.1.1.1", "1.0.0.1"])),
        (vec!["a.example:80"], addresses(&["10.1.2.3", "1.1.1.1", "1.0.0.1", "::1"])),
    ] {
        assert_eq!(usable(&found, &allowed(&entries), &wanted("a.example:80")), Ok(kept), "{entries:?}");
    }
    let (address, range) = usable(&found[..1], &allowed(&["*"]), &wanted("a.example:80")).unwrap_err();
    assert_eq!((address.to_string().as_str(), range.as_str()), ("10.1.2.3", "10.0.0.0/8 (private)"));
}

#[tokio::test]
async fn a_target_is_resolved_to_what_may_be_connected_to() {
    let grant: Grant = "net=localhost:5432".parse().unwrap();
    let offered = |entries: &[&str]| entries.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ask =
        async |entries: &[&str], operator: bool| resolve(&grant, "localhost:5432", &offered(entries), operator).await;
    for (entries, operator) in [(&["localhost:5432"][..], false), (&[], true), (&["*", "127.0.0.0/8", "[::1]"], false)]
    {
        let target = ask(entries, operator).await.unwrap();
        assert_eq!((target.host.as_str(), target.port), ("localhost", Some(5432)));
        assert!(!target.addresses.is_empty() && target.addresses.iter().all(IpAddr::is_loopback), "{target:?}");
    }
    for (entries, words) in [
        (&[][..], &["net=localhost:5432", "grants.net has nothing", "adds `localhost:5432`"][..]),
        (&["db.example:1"], &["grants.net has `db.example:1`"]),
        (&["*"], &["`localhost:5432` is ", "this machine", "grants.net"]),
        (&["a_b"], &["grants.net has `a_b`: ", "letters"]),
    ] {
        let error = ask(entries, false).await.unwrap_err();
        assert!(!error.is_transient());
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let missing = resolve(&grant, "does-not-exist.invalid:1", &offered(&["*"]), false).await.unwrap_err();
    assert!(missing.is_transient() && missing.to_string().contains("does not resolve"), "{missing}");
}
