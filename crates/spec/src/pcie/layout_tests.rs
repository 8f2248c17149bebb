//! Every field lies where the book has it: set, read back, and clear, against words written by hand.

use super::capability::{ExtendedHeader, ExtendedId, Header, Id};
use super::express::{
    Capabilities, DeviceCapabilities, DeviceCapabilities2, DeviceControl, DeviceControl2, DeviceStatus,
    LinkCapabilities, LinkStatus, PortType,
};
use super::extended::{
    AcsCapability, AcsControl, AriCapability, AtsCapability, AtsControl, PasidCapability, PasidControl,
    PriControl, PriStatus,
};
use super::header::{
    BridgeControl, BusNumbers, ClassRevision, Command, HeaderType, IoWindow, MemoryWindow, Status,
};
use super::msi::{MsiControl, MsixControl, MsixLocation, MsixVectorControl};
use super::{Bdf, HostWindow, Space};
use portcullis_types::Pa;

/// For each field its highest value, and the word in which it has that and all else is 0.
macro_rules! fields {
    ($word:ident $register:ident { $($field:ident: $highest:expr, $set:ident => $bits:expr;)* }) => {
        $(
            let bits: $word = $bits;
            assert_eq!($word::from($register::new().$set($highest)), bits, stringify!($register, $field));
            assert_eq!($register::from(bits).$field(), $highest, stringify!($register, $field));
            assert_eq!($register::from(!bits).$field(), $register::new().$field(), stringify!($register, $field));
            assert_eq!($word::from($register::from(!bits).$set($highest)), $word::MAX, stringify!($register, $field));
        )*
    };
}

#[test]
fn header_fields_lie_where_the_book_has_them() {
    fields!(u16 Command {
        io_space: true, with_io_space => 0x0001;
        memory_space: true, with_memory_space => 0x0002;
        bus_master: true, with_bus_master => 0x0004;
        special_cycle: true, with_special_cycle => 0x0008;
        memory_write_and_invalidate: true, with_memory_write_and_invalidate => 0x0010;
        vga_palette_snoop: true, with_vga_palette_snoop => 0x0020;
        parity_error_response: true, with_parity_error_response => 0x0040;
        idsel_stepping: true, with_idsel_stepping => 0x0080;
        serr_enable: true, with_serr_enable => 0x0100;
        fast_back_to_back: true, with_fast_back_to_back => 0x0200;
        interrupt_disable: true, with_interrupt_disable => 0x0400;
    });
    fields!(u16 Status {
        immediate_readiness: true, with_immediate_readiness => 0x0001;
        interrupt: true, with_interrupt => 0x0008;
        capabilities_list: true, with_capabilities_list => 0x0010;
        capable_66_mhz: true, with_capable_66_mhz => 0x0020;
        fast_back_to_back: true, with_fast_back_to_back => 0x0080;
        master_data_parity_error: true, with_master_data_parity_error => 0x0100;
        devsel_timing: 3, with_devsel_timing => 0x0600;
        signaled_target_abort: true, with_signaled_target_abort => 0x0800;
        received_target_abort: true, with_received_target_abort => 0x1000;
        received_master_abort: true, with_received_master_abort => 0x2000;
        signaled_system_error: true, with_signaled_system_error => 0x4000;
        detected_parity_error: true, with_detected_parity_error => 0x8000;
    });
    fields!(u32 ClassRevision {
        revision: 0xff, with_revision => 0x0000_00ff;
        interface: 0xff, with_interface => 0x0000_ff00;
        subclass: 0xff, with_subclass => 0x00ff_0000;
        base_class: 0xff, with_base_class => 0xff00_0000;
    });
    fields!(u8 HeaderType {
        layout: 0x7f, with_layout => 0x7f;
        multi_function: true, with_multi_function => 0x80;
    });
}

#[test]
fn bridge_fields_lie_where_the_book_has_them() {
    fields!(u32 BusNumbers {
        primary: 0xff, with_primary => 0x0000_00ff;
        secondary: 0xff, with_secondary => 0x0000_ff00;
        subordinate: 0xff, with_subordinate => 0x00ff_0000;
        latency_timer: 0xff, with_latency_timer => 0xff00_0000;
    });
    fields!(u16 IoWindow {
        base_width: 0xf, with_base_width => 0x000f;
        base: 0xf, with_base => 0x00f0;
        limit_width: 0xf, with_limit_width => 0x0f00;
        limit: 0xf, with_limit => 0xf000;
    });
    fields!(u32 MemoryWindow {
        base_width: 0xf, with_base_width => 0x0000_000f;
        base: 0xfff, with_base => 0x0000_fff0;
        limit_width: 0xf, with_limit_width => 0x000f_0000;
        limit: 0xfff, with_limit => 0xfff0_0000;
    });
    fields!(u16 BridgeControl {
        parity_error_response: true, with_parity_error_response => 0x0001;
        serr_enable: true, with_serr_enable => 0x0002;
        isa_enable: true, with_isa_enable => 0x0004;
        vga_enable: true, with_vga_enable => 0x0008;
        vga_16_bit_decode: true, with_vga_16_bit_decode => 0x0010;
        master_abort_mode: true, with_master_abort_mode => 0x0020;
        secondary_bus_reset: true, with_secondary_bus_reset => 0x0040;
        fast_back_to_back: true, with_fast_back_to_back => 0x0080;
    });
}

#[test]
fn capability_headers_lie_where_the_book_has_them() {
    fields!(u16 Header {
        id: Id(0xff), with_id => 0x00ff;
        next: 0xff, with_next => 0xff00;
    });
    fields!(u32 ExtendedHeader {
        id: ExtendedId(0xffff), with_id => 0x0000_ffff;
        version: 0xf, with_version => 0x000f_0000;
        next: 0xfff, with_next => 0xfff0_0000;
    });
}

#[test]
fn express_fields_lie_where_the_book_has_them() {
    fields!(u16 Capabilities {
        version: 0xf, with_version => 0x000f;
        port_type: PortType(0xf), with_port_type => 0x00f0;
        slot_implemented: true, with_slot_implemented => 0x0100;
        interrupt_message: 0x1f, with_interrupt_message => 0x3e00;
    });
    fields!(u32 DeviceCapabilities {
        max_payload: 7, with_max_payload => 0x0000_0007;
        phantom_functions: 3, with_phantom_functions => 0x0000_0018;
        extended_tag: true, with_extended_tag => 0x0000_0020;
        l0s_latency: 7, with_l0s_latency => 0x0000_01c0;
        l1_latency: 7, with_l1_latency => 0x0000_0e00;
        role_based_error_reporting: true, with_role_based_error_reporting => 0x0000_8000;
        function_level_reset: true, with_function_level_reset => 0x1000_0000;
    });
    fields!(u16 DeviceControl {
        correctable_errors: true, with_correctable_errors => 0x0001;
        non_fatal_errors: true, with_non_fatal_errors => 0x0002;
        fatal_errors: true, with_fatal_errors => 0x0004;
        unsupported_requests: true, with_unsupported_requests => 0x0008;
        relaxed_ordering: true, with_relaxed_ordering => 0x0010;
        max_payload: 7, with_max_payload => 0x00e0;
        extended_tag: true, with_extended_tag => 0x0100;
        phantom_functions: true, with_phantom_functions => 0x0200;
        aux_power: true, with_aux_power => 0x0400;
        no_snoop: true, with_no_snoop => 0x0800;
        max_read_request: 7, with_max_read_request => 0x7000;
        initiate_reset: true, with_initiate_reset => 0x8000;
    });
    fields!(u16 DeviceStatus {
        correctable_error: true, with_correctable_error => 0x0001;
        non_fatal_error: true, with_non_fatal_error => 0x0002;
        fatal_error: true, with_fatal_error => 0x0004;
        unsupported_request: true, with_unsupported_request => 0x0008;
        aux_power: true, with_aux_power => 0x0010;
        transactions_pending: true, with_transactions_pending => 0x0020;
    });
    fields!(u32 LinkCapabilities {
        max_speed: 0xf, with_max_speed => 0x0000_000f;
        reports_link_active: true, with_reports_link_active => 0x0010_0000;
    });
    fields!(u16 LinkStatus {
        link_active: true, with_link_active => 0x2000;
    });
    fields!(u32 DeviceCapabilities2 {
        ari_forwarding: true, with_ari_forwarding => 0x0000_0020;
        end_to_end_prefixes: true, with_end_to_end_prefixes => 0x0020_0000;
    });
    fields!(u16 DeviceControl2 {
        ari_forwarding: true, with_ari_forwarding => 0x0020;
        end_to_end_prefix_blocking: true, with_end_to_end_prefix_blocking => 0x8000;
    });
}

#[test]
fn interrupt_fields_lie_where_the_book_has_them() {
    fields!(u16 MsiControl {
        enable: true, with_enable => 0x0001;
        multiple_message_capable: 7, with_multiple_message_capable => 0x000e;
        multiple_message_enable: 7, with_multiple_message_enable => 0x0070;
        address_64: true, with_address_64 => 0x0080;
        per_vector_masking: true, with_per_vector_masking => 0x0100;
        extended_data_capable: true, with_extended_data_capable => 0x0200;
        extended_data_enable: true, with_extended_data_enable => 0x0400;
    });
    fields!(u16 MsixControl {
        table_size_minus_1: 0x7ff, with_table_size_minus_1 => 0x07ff;
        function_mask: true, with_function_mask => 0x4000;
        enable: true, with_enable => 0x8000;
    });
    fields!(u32 MsixLocation {
        bar: 7, with_bar => 0x0000_0007;
        offset_qwords: 0x1fff_ffff, with_offset_qwords => 0xffff_fff8;
    });
    fields!(u32 MsixVectorControl { masked: true, with_masked => 0x0000_0001; });
}

#[test]
fn extended_fields_lie_where_the_book_has_them() {
    fields!(u16 AcsCapability {
        source_validation: true, with_source_validation => 0x0001;
        translation_blocking: true, with_translation_blocking => 0x0002;
        request_redirect: true, with_request_redirect => 0x0004;
        completion_redirect: true, with_completion_redirect => 0x0008;
        upstream_forwarding: true, with_upstream_forwarding => 0x0010;
        egress_control: true, with_egress_control => 0x0020;
        direct_translated: true, with_direct_translated => 0x0040;
        enhanced: true, with_enhanced => 0x0080;
        egress_vector_size: 0xff, with_egress_vector_size => 0xff00;
    });
    fields!(u16 AcsControl {
        source_validation: true, with_source_validation => 0x0001;
        translation_blocking: true, with_translation_blocking => 0x0002;
        request_redirect: true, with_request_redirect => 0x0004;
        completion_redirect: true, with_completion_redirect => 0x0008;
        upstream_forwarding: true, with_upstream_forwarding => 0x0010;
        egress_control: true, with_egress_control => 0x0020;
        direct_translated: true, with_direct_translated => 0x0040;
        io_request_blocking: true, with_io_request_blocking => 0x0080;
        downstream_target: 3, with_downstream_target => 0x0300;
        upstream_target: 3, with_upstream_target => 0x0c00;
        unclaimed_redirect: true, with_unclaimed_redirect => 0x1000;
    });
    fields!(u16 AriCapability {
        mfvc_function_groups: true, with_mfvc_function_groups => 0x0001;
        acs_function_groups: true, with_acs_function_groups => 0x0002;
        next_function: 0xff, with_next_function => 0xff00;
    });
    fields!(u16 AtsCapability {
        invalidate_queue_depth: 0x1f, with_invalidate_queue_depth => 0x001f;
        page_aligned_request: true, with_page_aligned_request => 0x0020;
        global_invalidate: true, with_global_invalidate => 0x0040;
        relaxed_ordering: true, with_relaxed_ordering => 0x0080;
    });
    fields!(u16 AtsControl {
        smallest_translation_unit: 0x1f, with_smallest_translation_unit => 0x001f;
        enable: true, with_enable => 0x8000;
    });
    fields!(u16 PasidCapability {
        execute: true, with_execute => 0x0002;
        privileged: true, with_privileged => 0x0004;
        max_width: 0x1f, with_max_width => 0x1f00;
    });
    fields!(u16 PasidControl {
        enable: true, with_enable => 0x0001;
        execute: true, with_execute => 0x0002;
        privileged: true, with_privileged => 0x0004;
    });
    fields!(u16 PriControl {
        enable: true, with_enable => 0x0001;
        reset: true, with_reset => 0x0002;
    });
    fields!(u16 PriStatus {
        response_failure: true, with_response_failure => 0x0001;
        unexpected_group: true, with_unexpected_group => 0x0002;
        stopped: true, with_stopped => 0x0100;
        response_pasid_required: true, with_response_pasid_required => 0x8000;
    });
}

#[test]
fn a_requester_id_is_bus_device_and_function() {
    let function = Bdf::new(0xab, 0x1f, 0x5).unwrap();
    assert_eq!(function.requester_id(), 0xabfd);
    assert_eq!(
        (function.bus(), function.device(), function.function(), function.devfn()),
        (0xab, 0x1f, 5, 0xfd)
    );
    assert_eq!(Bdf::from_requester_id(0xabfd), function);
    assert_eq!(function.sibling(0), Some(Bdf::from_requester_id(0xabf8)));
    assert_eq!((Bdf::new(0, 32, 0), Bdf::new(0, 0, 8), function.sibling(8)), (None, None, None));
}

#[test]
fn a_window_knows_where_the_cpu_sees_it() {
    let window = HostWindow {
        space: Space::Memory32,
        prefetchable: false,
        bus_first: 0x1000_0000,
        cpu_first: Pa::new(0x7000_0000),
        size_bytes: 0x1000,
    };
    assert_eq!(window.bus_last(), 0x1000_0fff);
    assert_eq!(window.to_cpu(0x1000_0fff), Some(Pa::new(0x7000_0fff)));
    assert_eq!((window.to_cpu(0x1000_1000), window.to_cpu(0x0fff_ffff)), (None, None));
}
