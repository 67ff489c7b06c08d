# The whole road on a machine with Intel's IOMMU in place of AMD's.
. /spindle/scenarios/file-tree.sh
