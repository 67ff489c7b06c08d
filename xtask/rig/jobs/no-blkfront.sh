# A guest that has a disk and never looks at it.
report idle
sleep 600
