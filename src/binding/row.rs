//! The truth table: in which states a claim of a Pod that names its node can be.

use serde::{Serialize, Serializer};

macro_rules! rows {
    ($($number:literal $variant:ident $text:literal;)+) => {
        /// A row of the truth table in `docs/decisions.md`. Numbers are stable: none is ever given a second meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Row {
            $(
                #[doc = $text]
                $variant = $number,
            )+
        }

        impl Row {
            /// Number and text of every row, in order. N is the node that the Pod names.
            pub const TABLE: &'static [(&'static str, &'static str)] = &[$((stringify!($number), $text)),+];

            /// The number by which people and reports know the row.
            #[must_use]
            pub const fn number(self) -> u8 {
                self as u8
            }
        }
    };
}

rows! {
    1 Missing "The claim does not exist";
    2 Bound "Bound to a volume that N reaches";
    3 BoundElsewhere "Bound to a volume that N does not reach";
    4 Dynamic "Delayed; the class has a provisioner";
    5 DynamicVolumeFits "Delayed; the class has a provisioner, and an existing volume fits on N";
    6 StaticVolumeFits "Delayed; no provisioner, and a volume fits on N";
    7 StaticNoVolume "Delayed; no provisioner, and no volume fits on N";
    8 Immediate "Immediate binding";
    9 EmptyClass "`storageClassName: \"\"`";
    10 NoClass "No class named";
    11 ClassMissing "The class does not exist";
    12 BetaClass "The class is named by the beta annotation";
    13 SelectedHere "Delayed; a volume is on order for N";
    14 SelectedStatic "Delayed; no provisioner, but a selected node";
    15 SelectedElsewhere "Delayed; a volume is on order for another node";
    16 SelectedNodeGone "Delayed; a volume is on order for a node that is gone";
    17 Reserved "A volume is reserved for the claim";
    18 NamesVolume "The claim names its volume";
    19 Deleting "The claim is being deleted";
    20 Lost "The claim is lost";
    21 Exclusive "`ReadWriteOncePod`";
    22 Shared "Pods on several nodes share the claim";
    23 Ephemeral "Ephemeral volume of a class with a provisioner";
    24 EphemeralStatic "Ephemeral volume of a class without a provisioner";
    25 StatefulSet "Claim template of a StatefulSet";
    26 NoClaim "Volumes that are no claims";
    27 NotMounted "No container mounts the claim";
    28 Device "ResourceClaims";
    29 Foreign "The claim of an ephemeral volume belongs to another owner";
}

impl Row {
    /// True where the scheduler, and nobody else, has the claim bound.
    #[must_use]
    pub const fn waits_for_scheduler(self) -> bool {
        matches!(
            self,
            Self::Dynamic
                | Self::DynamicVolumeFits
                | Self::StaticVolumeFits
                | Self::StaticNoVolume
                | Self::SelectedStatic
                | Self::SelectedNodeGone
                | Self::Ephemeral
                | Self::EphemeralStatic
        )
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.number())
    }
}
