//! Environment variables that hide devices from programs: `CUDA_VISIBLE_DEVICES` and its relatives.

/// How a program could name a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Identifiers, such as `GPU-8932f937-…` and `MIG-…`; a mask may shorten them.
    pub(crate) ids: Vec<String>,
}

/// Which devices remain, as positions in `devices`, in the order that programs see.
///
/// `None` is an unset variable and hides nothing. Reading stops at the first entry that is not exactly one device, and
/// at a repeated one: `0,2,-1,1` shows 0 and 2. An empty text hides everything.
pub(crate) fn select(mask: Option<&str>, devices: &[Names]) -> Vec<usize> {
    let Some(mask) = mask else { return (0..devices.len()).collect() };
    let mut chosen = Vec::new();
    for entry in mask.split(',') {
        match find(entry.trim(), devices) {
            Some(position) if !chosen.contains(&position) => chosen.push(position),
            _ => break,
        }
    }
    chosen
}

/// The one device that an entry means.
fn find(entry: &str, devices: &[Names]) -> Option<usize> {
    if let Ok(index) = entry.parse::<usize>() {
        return (index < devices.len()).then_some(index);
    }
    // `GPU-` alone would fit every device.
    let lower = entry.to_ascii_lowercase();
    let is_id = ["gpu-", "mig-"].iter().any(|kind| lower.starts_with(kind) && lower.len() > 4);
    let fits =
        |names: &Names| names.ids.iter().any(|id| id.to_ascii_lowercase().starts_with(&lower));
    let mut fitting = devices.iter().enumerate().filter(|(_, names)| is_id && fits(names));
    match (fitting.next(), fitting.next()) {
        (Some((position, _)), None) => Some(position),
        _ => None,
    }
}

/// A variable whose empty value means the same as no value: HIP's.
pub(crate) fn unless_empty(mask: Option<&str>) -> Option<&str> {
    mask.filter(|mask| !mask.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn four() -> Vec<Names> {
        let ids = ["GPU-aa11-0", "GPU-aa22-1", "GPU-bb33-2", "MIG-cc44-3"];
        ids.map(|id| Names { ids: vec![id.to_owned()] }).to_vec()
    }

    fn shown(mask: &str) -> Vec<usize> {
        select(Some(mask), &four())
    }

    #[test]
    fn an_unset_mask_shows_all_and_an_empty_one_none() {
        assert_eq!(select(None, &four()), [0, 1, 2, 3]);
        assert_eq!(shown(""), [0usize; 0]);
        assert_eq!(shown(" "), [0usize; 0]);
        assert_eq!(unless_empty(Some("")), None);
        assert_eq!(unless_empty(Some("1")), Some("1"));
    }

    #[test]
    fn the_mask_s_order_is_the_programs_order() {
        assert_eq!(shown("2,0"), [2, 0]);
        assert_eq!(shown("3, 1"), [3, 1]);
    }

    #[test]
    fn the_first_invalid_entry_ends_the_list() {
        assert_eq!(shown("0,2,-1,1"), [0, 2]);
        assert_eq!(shown("0,9,1"), [0]);
        assert_eq!(shown("NoDevFiles"), [0usize; 0]);
        assert_eq!(shown("1,1,2"), [1]);
        assert_eq!(shown(",0"), [0usize; 0]);
    }

    #[test]
    fn identifiers_may_be_shortened_but_must_stay_unique() {
        assert_eq!(shown("GPU-bb"), [2]);
        assert_eq!(shown("GPU-aa22,GPU-aa11-0"), [1, 0]);
        assert_eq!(shown("GPU-aa"), [0usize; 0], "fits two devices");
        assert_eq!(shown("MIG-cc44-3"), [3]);
        assert_eq!(shown("GPU-"), [0usize; 0]);
        assert_eq!(shown("bb33"), [0usize; 0], "the kind is part of the name");
    }
}
