# Does what dom0 writes to the console: each line is a number and a command, mostly a function of the
# job that ends with this. The answer is `did NUMBER ok`; one that fails ends the guest.
modprobe xen-blkfront
report ready
while read -r number command; do
	eval "$command" < /dev/null || fail "$command"
	report did $number ok
done
