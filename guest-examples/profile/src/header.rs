//! The names of the columns, made distinct as pandas does it.

use std::collections::{HashMap, HashSet};

/// Gives every column a name of its own: `a, a, ` becomes `a, a.1, Unnamed: 2`.
///
/// A name that the header has already is not made up a second time, and columns that have a name
/// choose before those that have none.
pub fn distinct(header: &[String]) -> Vec<String> {
    let unnamed = |i: usize| header[i].is_empty();
    let mut names: Vec<String> = header.to_vec();
    for i in (0..names.len()).filter(|i| unnamed(*i)) {
        names[i] = format!("Unnamed: {i}");
    }
    let mut taken: HashSet<String> = names.iter().cloned().collect();
    let mut seen: HashMap<String, u64> = HashMap::new();
    let named_first = (0..names.len()).filter(|i| !unnamed(*i));
    for i in named_first.chain((0..names.len()).filter(|i| unnamed(*i))) {
        let original = names[i].clone();
        let mut number = seen.get(&original).copied().unwrap_or(0);
        let mut name = original.clone();
        while number > 0 {
            seen.insert(original.clone(), number + 1);
            name = format!("{original}.{number}");
            number = if taken.contains(&name) { number + 1 } else { seen.get(&name).copied().unwrap_or(0) };
        }
        *seen.entry(name.clone()).or_default() += 1;
        taken.insert(name.clone());
        names[i] = name;
    }
    names
}

#[cfg(test)]
mod tests {
    fn check(header: &str, expected: &str) {
        let header: Vec<_> = header.split(',').map(String::from).collect();
        assert_eq!(super::distinct(&header).join(","), expected);
    }

    #[test]
    fn duplicates_are_numbered_around_names_that_exist() {
        check("a,a,a", "a,a.1,a.2");
        check("a,a,a.1,a,b,a.1", "a,a.2,a.1,a.3,b,a.1.1");
        check("a,a.1,a,a,b,b", "a,a.1,a.2,a.3,b,b.1");
    }

    #[test]
    fn columns_without_a_name_get_their_number() {
        check(",,a,,x,Unnamed: 0", "Unnamed: 0.1,Unnamed: 1,a,Unnamed: 3,x,Unnamed: 0");
        check("Unnamed: 0,,a,,x,y", "Unnamed: 0,Unnamed: 1,a,Unnamed: 3,x,y");
        check(" a ,a,NA,,nan,1", " a ,a,NA,Unnamed: 3,nan,1");
    }
}
