# scenario: seconds=480 machine=intel-iommu host=file-tree
# The whole road on a machine with Intel's IOMMU in place of AMD's.
# shellcheck source=scenarios/file-tree.sh
. /spindle/scenarios/file-tree.sh
