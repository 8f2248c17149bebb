//! Every request with the test of its success and those of its errors.
//!
//! A request of `spec` without a row, an error that the rules name without a test, or a row without its request fails the build.

use portcullis_spec::vfio::{On, REQUESTS};
use portcullis_vfio::Errno;

use crate::{attach, container, device, dirty, faults, group, info, interrupts, map, spapr, unmap};

/// A request: on which file, its number and name, the test of its success, and those of its errors.
struct Row {
    on: On,
    number: u32,
    name: &'static str,
    success: fn(),
    errors: &'static [(Errno, fn())],
}

macro_rules! table {
    ($( $on:ident $number:literal $name:literal: $success:path { $( $errno:ident: $( $test:path ),+; )* } )+) => {
        const TABLE: &[Row] = &[ $( Row {
            on: On::$on,
            number: $number,
            name: $name,
            success: $success,
            errors: &[ $( $( (Errno::$errno, $test as fn()), )+ )* ],
        } ),+ ];
    };
}

table! {
    Container 0x3b64 "GET_API_VERSION": container::the_version_is_0 {}
    Container 0x3b65 "CHECK_EXTENSION": container::before_an_iommu_is_set_extensions_are_those_of_any {}
    Container 0x3b66 "SET_IOMMU": container::an_iommu_is_set_and_the_group_attached {
        Einval: container::a_container_without_groups_gets_no_iommu, container::a_container_gets_one_iommu;
        Enodev: container::an_iommu_that_is_not_there_is_not_set;
        Eperm: attach::interrupts_that_can_be_forged_are_for_users_only_if_somebody_has_said_so,
            spapr::groups::tables_of_another_driver_are_not_for_a_group;
        Ebusy: spapr::version1::a_table_in_which_the_platform_has_something_mapped_is_not_taken_over;
        Efault: spapr::groups::a_driver_that_offers_ownership_and_no_tables_is_refused;
        Eio: container::a_group_that_cannot_be_attached_leaves_the_container_without_iommu_and_the_others_blocked;
        Enotty: container::an_iommu_does_not_know_what_it_does_not_know;
    }
    Group 0x3b67 "GROUP_GET_STATUS": group::a_group_is_viable_while_nobody_has_it_and_while_it_is_in_a_container {
        Einval: group::a_status_without_room_is_refused;
        Efault: group::a_status_that_is_nowhere_is_a_fault;
    }
    Group 0x3b68 "GROUP_SET_CONTAINER": group::a_group_in_a_container_is_its_users_and_blocked_until_there_is_an_iommu {
        Ebadf: group::no_file_is_no_container;
        Einval: group::a_group_has_one_container, group::a_device_that_firmware_uses_is_not_for_users,
            attach::a_group_whose_aperture_does_not_hold_what_is_mapped_is_refused,
            attach::a_group_for_which_something_is_reserved_that_is_mapped_is_refused_unless_it_can_be_relaxed,
            spapr::groups::a_group_whom_the_windows_do_not_fit_is_refused;
        Ebadfd: group::another_file_is_no_container;
        Efault: group::a_container_whose_number_is_nowhere_is_a_fault;
        Eperm: group::a_group_that_a_kernel_driver_uses_gets_no_container_and_it_is_said_why;
        Ebusy: group::a_group_in_another_domain_than_its_default_gets_no_container,
            group::the_files_there_are_can_be_opened_a_group_once;
        Eio: group::a_group_that_joins_a_container_with_an_iommu_is_attached_at_once_or_is_the_kernels_again;
    }
    Group 0x3b69 "GROUP_UNSET_CONTAINER": group::a_group_leaves_its_container_and_is_the_kernels_again {
        Einval: group::a_group_without_container_cannot_leave_one;
        Ebusy: group::a_group_stays_while_a_device_is_open;
        Enotty: group::a_group_does_not_know_what_it_does_not_know;
    }
    Group 0x3b6a "GROUP_GET_DEVICE_FD": group::a_device_is_opened_by_name_as_often_as_one_likes {
        Enodev: group::a_device_of_another_group_or_of_another_name_is_not_there;
        Einval: group::a_device_is_not_opened_before_there_is_an_iommu;
        Efault: group::a_name_that_is_nowhere_is_a_fault_and_one_without_end_is_none;
        Emfile: group::a_device_for_which_there_is_no_number_is_closed_again;
        Eio: group::a_device_that_does_not_answer_is_not_opened;
        Eperm: attach::a_device_that_joins_a_users_group_and_can_forge_interrupts_is_his_only_if_somebody_had_said_so;
    }
    Device 0x3b6b "DEVICE_GET_INFO": device::a_device_says_what_it_is {
        Einval: device::a_device_without_room_to_say_so_is_refused;
        Efault: device::a_device_that_is_to_say_it_nowhere_is_a_fault;
    }
    Device 0x3b6c "DEVICE_GET_REGION_INFO": device::registers_can_be_mapped_but_for_the_pages_of_the_interrupts_table {
        Einval: device::a_region_without_room_or_with_another_index_is_refused;
        Efault: device::a_device_that_is_to_say_it_nowhere_is_a_fault;
    }
    Device 0x3b6d "DEVICE_GET_IRQ_INFO": interrupts::kinds_of_interrupts_are_told_with_their_counts {
        Einval: interrupts::kinds_that_there_are_not_and_answers_without_room_are_refused;
        Efault: device::a_device_that_is_to_say_it_nowhere_is_a_fault;
    }
    Device 0x3b6e "DEVICE_SET_IRQS": interrupts::an_interrupt_arrives_through_the_doorbells_window {
        Einval: interrupts::interrupts_that_there_are_not_are_refused,
            interrupts::data_of_two_kinds_or_none_or_too_little_or_unknown_flags_are_refused,
            interrupts::a_file_that_is_no_event_file_changes_nothing, interrupts::what_is_not_in_use_is_not_raised;
        Ebadf: interrupts::a_number_that_is_no_file_changes_nothing;
        Efault: interrupts::data_that_is_nowhere_is_a_fault;
        Enotty: interrupts::messages_are_not_masked_one_by_one;
        Enospc: interrupts::an_interrupt_that_the_machine_does_not_have_changes_nothing;
    }
    Device 0x3b6f "DEVICE_RESET": device::a_reset_leaves_the_function_where_it_was {
        Einval: device::a_function_that_cannot_be_reset_is_not;
        Eio: device::a_function_that_does_not_come_back_from_a_reset_is_an_error;
        Enotty: device::a_device_does_not_know_what_it_does_not_know;
    }
    Type1 0x3b70 "IOMMU_GET_INFO": info::the_answer_of_two_ranges_is_120_bytes_as_they_were_observed {
        Einval: info::without_room_for_the_fixed_part_it_is_refused, container::a_container_without_iommu_knows_nothing_else;
        Efault: info::an_info_that_is_nowhere_is_a_fault;
    }
    Type1 0x3b71 "IOMMU_MAP_DMA": map::memory_is_mapped_with_the_permissions_that_were_asked_for {
        Einval: map::unknown_flags_are_refused, map::a_map_without_room_is_refused, map::a_map_of_nothing_is_refused,
            map::a_map_for_nobody_is_refused, map::a_map_of_parts_of_pages_is_refused,
            map::what_is_reserved_or_beyond_the_aperture_is_not_mapped;
        Eoverflow: map::a_map_whose_end_wraps_is_an_overflow;
        Eexist: map::what_is_mapped_is_not_mapped_again_and_that_is_said_before_whether_it_could_be;
        Enospc: map::there_are_so_many_mappings_and_no_more;
        Efault: map::memory_that_is_not_there_is_a_fault_and_nothing_is_pinned,
            map::memory_that_the_process_cannot_write_is_not_written_for_it, map::a_request_that_is_nowhere_is_a_fault;
        Enomem: map::more_than_the_limit_is_not_locked_and_nothing_stays_pinned, map::a_map_that_the_table_refuses_leaves_nothing;
    }
    Type1 0x3b72 "IOMMU_UNMAP_DMA": unmap::what_was_mapped_is_unmapped_and_its_pages_given_back {
        Einval: unmap::version_2_does_not_cut_a_mapping, unmap::all_wants_no_addresses,
            unmap::an_unmap_with_unknown_flags_or_without_room_is_refused,
            unmap::an_unmap_of_no_bytes_or_parts_of_pages_is_refused, dirty::an_unmap_that_cannot_tell_unmaps_nothing;
        Eoverflow: unmap::an_unmap_whose_end_wraps_is_an_overflow;
        Efault: unmap::an_unmap_that_is_nowhere_or_cannot_be_answered_is_a_fault_and_unmaps_nothing;
        Eio: faults::pages_of_an_unmap_that_hardware_does_not_confirm_stay_and_the_next_try_gives_them_back;
    }
    Type1 0x3b75 "IOMMU_DIRTY_PAGES": dirty::what_a_device_can_write_counts_as_written_each_time {
        Eacces: dirty::version_1_does_not_watch;
        Einval: dirty::one_thing_is_asked_at_a_time, dirty::a_range_or_a_bitmap_that_cannot_be_is_refused;
        Efault: dirty::a_request_or_a_bitmap_that_is_nowhere_is_a_fault;
    }
    Spapr 0x3b70 "SPAPR_TCE_GET_INFO": spapr::container::windows_are_told_as_they_were_observed {
        Einval: spapr::container::an_info_without_room_is_refused, spapr::container::without_its_last_group_a_container_knows_nothing;
        Efault: spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Eperm: spapr::container::the_first_process_to_use_the_container_owns_it;
    }
    Spapr 0x3b71 "SPAPR_MAP_DMA": spapr::entries::registered_memory_is_mapped_with_the_permissions_that_were_asked_for {
        Einval: spapr::entries::maps_that_make_no_sense_are_refused,
            spapr::entries::maps_that_run_past_the_end_of_their_window_change_nothing;
        Enxio: spapr::entries::what_is_outside_every_window_is_no_address;
        Eperm: spapr::entries::before_memory_is_registered_nothing_is_mapped_or_unmapped,
            spapr::container::the_first_process_to_use_the_container_owns_it;
        Efault: spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing,
            spapr::version1::memory_that_is_not_there_or_not_writable_leaves_nothing_mapped;
        Enomem: spapr::entries::a_map_for_whose_levels_there_is_no_memory_changes_nothing;
        Eio: spapr::faults::a_map_that_hardware_does_not_confirm_is_taken_back_with_what_was_there;
    }
    Spapr 0x3b72 "SPAPR_UNMAP_DMA": spapr::entries::what_was_mapped_is_unmapped_and_holes_are_no_error {
        Einval: spapr::entries::unmaps_that_make_no_sense_are_refused;
        Enxio: spapr::entries::what_is_outside_every_window_is_no_address;
        Eperm: spapr::entries::before_memory_is_registered_nothing_is_mapped_or_unmapped;
        Efault: spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Eio: spapr::faults::an_unmap_that_hardware_does_not_confirm_keeps_the_memory_until_it_does;
    }
    Spapr 0x3b73 "IOMMU_ENABLE": spapr::version1::enabling_pays_for_the_whole_window {
        Ebusy: spapr::version1::what_is_enabled_is_not_enabled_again;
        Enomem: spapr::version1::more_than_the_limit_is_not_enabled;
        Enotty: spapr::container::each_version_knows_its_own_requests_only;
    }
    Spapr 0x3b74 "IOMMU_DISABLE": spapr::version1::disabling_gives_back_and_twice_is_no_error {
        Enotty: spapr::container::each_version_knows_its_own_requests_only;
        Eio: spapr::version1::what_hardware_does_not_forget_stays_enabled;
    }
    Spapr 0x3b75 "SPAPR_REGISTER_MEMORY": spapr::memory::registered_memory_is_pinned_and_charged_once_whatever_maps_it {
        Einval: spapr::memory::what_is_no_whole_memory_is_not_registered,
            spapr::memory::memory_that_overlaps_other_is_refused_and_what_touches_it_is_not;
        Efault: spapr::memory::memory_that_is_not_there_or_not_writable_is_a_fault,
            spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Ebusy: spapr::memory::memory_is_registered_once_in_a_container;
        Enomem: spapr::memory::more_than_the_limit_is_not_registered;
        Eperm: spapr::container::the_first_process_to_use_the_container_owns_it;
        Enotty: spapr::container::each_version_knows_its_own_requests_only;
    }
    Spapr 0x3b76 "SPAPR_UNREGISTER_MEMORY": spapr::memory::what_was_registered_is_let_go {
        Einval: spapr::memory::what_is_no_whole_memory_is_not_registered;
        Efault: spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Enoent: spapr::memory::what_is_not_registered_is_not_let_go;
        Ebusy: spapr::memory::memory_that_is_mapped_stays_registered;
        Eperm: spapr::memory::nobody_lets_go_what_nobody_has_registered;
        Enotty: spapr::container::each_version_knows_its_own_requests_only;
    }
    Spapr 0x3b77 "SPAPR_TCE_CREATE": spapr::windows::windows_are_made_with_the_page_size_and_the_levels_that_were_asked_for {
        Einval: spapr::windows::windows_that_cannot_be_are_refused;
        Efault: spapr::container::answers_that_cannot_be_written_are_faults_and_change_nothing,
            spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Enospc: spapr::windows::there_are_two_windows_and_no_more;
        Enomem: spapr::windows::a_window_that_is_more_than_the_limit_is_not_made_and_nothing_stays_charged;
        Eperm: spapr::container::the_first_process_to_use_the_container_owns_it;
        Enotty: spapr::container::each_version_knows_its_own_requests_only;
    }
    Spapr 0x3b78 "SPAPR_TCE_REMOVE": spapr::windows::the_default_window_can_be_cancelled_and_is_not_made_then {
        Einval: spapr::windows::a_window_that_is_not_there_is_not_removed;
        Efault: spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Eperm: spapr::container::the_first_process_to_use_the_container_owns_it;
        Enotty: spapr::container::each_version_knows_its_own_requests_only;
        Eio: spapr::faults::a_window_that_hardware_does_not_let_go_is_removed_by_the_next_try;
    }
    Spapr 0x3b79 "EEH_PE_OP": spapr::eeh::a_frozen_pe_is_recovered_step_by_step {
        Einval: spapr::eeh::operations_that_there_are_not_are_refused;
        Efault: spapr::container::requests_that_are_nowhere_are_faults_and_change_nothing;
        Enodev: spapr::eeh::a_group_that_does_not_freeze_has_no_such_operations;
        Eio: spapr::eeh::what_hardware_does_not_confirm_is_an_error;
        Eperm: spapr::container::the_first_process_to_use_the_container_owns_it;
    }
}

/// Errors that the rules name, request by request.
const RULES: &[(&str, &[Errno])] = &[
    ("SET_IOMMU", &[Errno::Einval, Errno::Enodev, Errno::Eperm, Errno::Enotty]),
    ("GROUP_GET_STATUS", &[Errno::Einval, Errno::Efault]),
    (
        "GROUP_SET_CONTAINER",
        &[Errno::Ebadf, Errno::Einval, Errno::Ebadfd, Errno::Efault, Errno::Eperm, Errno::Ebusy, Errno::Eio],
    ),
    ("GROUP_UNSET_CONTAINER", &[Errno::Einval, Errno::Ebusy, Errno::Enotty]),
    ("GROUP_GET_DEVICE_FD", &[Errno::Enodev, Errno::Einval, Errno::Efault]),
    ("DEVICE_GET_INFO", &[Errno::Einval, Errno::Efault]),
    ("DEVICE_GET_REGION_INFO", &[Errno::Einval, Errno::Efault]),
    ("DEVICE_GET_IRQ_INFO", &[Errno::Einval, Errno::Efault]),
    ("DEVICE_SET_IRQS", &[Errno::Einval, Errno::Ebadf, Errno::Efault, Errno::Enotty]),
    ("DEVICE_RESET", &[Errno::Einval, Errno::Enotty]),
    ("IOMMU_GET_INFO", &[Errno::Einval, Errno::Efault]),
    (
        "IOMMU_MAP_DMA",
        &[Errno::Einval, Errno::Eoverflow, Errno::Eexist, Errno::Enospc, Errno::Efault, Errno::Enomem],
    ),
    ("IOMMU_UNMAP_DMA", &[Errno::Einval, Errno::Eoverflow, Errno::Efault, Errno::Eio]),
    ("IOMMU_DIRTY_PAGES", &[Errno::Eacces, Errno::Einval, Errno::Efault]),
    ("SPAPR_TCE_GET_INFO", &[Errno::Einval, Errno::Efault, Errno::Eperm]),
    ("SPAPR_MAP_DMA", &[Errno::Einval, Errno::Enxio, Errno::Eperm, Errno::Efault, Errno::Enomem, Errno::Eio]),
    ("SPAPR_UNMAP_DMA", &[Errno::Einval, Errno::Enxio, Errno::Eperm, Errno::Efault, Errno::Eio]),
    ("IOMMU_ENABLE", &[Errno::Ebusy, Errno::Enomem, Errno::Enotty]),
    ("IOMMU_DISABLE", &[Errno::Enotty]),
    (
        "SPAPR_REGISTER_MEMORY",
        &[Errno::Einval, Errno::Efault, Errno::Ebusy, Errno::Enomem, Errno::Eperm, Errno::Enotty],
    ),
    (
        "SPAPR_UNREGISTER_MEMORY",
        &[Errno::Einval, Errno::Efault, Errno::Enoent, Errno::Ebusy, Errno::Eperm, Errno::Enotty],
    ),
    (
        "SPAPR_TCE_CREATE",
        &[Errno::Einval, Errno::Efault, Errno::Enospc, Errno::Enomem, Errno::Eperm, Errno::Enotty],
    ),
    ("SPAPR_TCE_REMOVE", &[Errno::Einval, Errno::Efault, Errno::Eperm, Errno::Enotty, Errno::Eio]),
    ("EEH_PE_OP", &[Errno::Einval, Errno::Efault, Errno::Enodev, Errno::Eperm]),
];

const fn same_text(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

const fn row_of(name: &str) -> Option<&'static Row> {
    let mut at = 0;
    while at < TABLE.len() {
        if same_text(TABLE[at].name, name) {
            return Some(&TABLE[at]);
        }
        at += 1;
    }
    None
}

const fn has_test(row: &Row, errno: Errno) -> bool {
    let mut at = 0;
    while at < row.errors.len() {
        if row.errors[at].0.code() == errno.code() {
            return true;
        }
        at += 1;
    }
    false
}

const _: () = {
    assert!(TABLE.len() == REQUESTS.len(), "a row for each request, and no others");
    let mut at = 0;
    while at < REQUESTS.len() {
        let (on, number, name) = REQUESTS[at];
        let Some(row) = row_of(name) else { panic!("a request has no row") };
        assert!(row.on as u8 == on as u8 && row.number == number, "a row is for another request");
        at += 1;
    }
    let mut at = 0;
    while at < RULES.len() {
        let (name, errors) = RULES[at];
        let Some(row) = row_of(name) else { panic!("a rule is for no request") };
        let mut error = 0;
        while error < errors.len() {
            assert!(has_test(row, errors[error]), "an error that the rules name has no test");
            error += 1;
        }
        at += 1;
    }
};

#[test]
fn every_request_is_tested_in_success_and_no_test_stands_for_two_of_them() {
    let successes: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.success as usize).collect();
    assert_eq!(successes.len(), REQUESTS.len());
}
