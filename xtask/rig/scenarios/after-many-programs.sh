# scenario: seconds=360 backend=any
# A guest that has run many programs is destroyed; while Xen wipes its memory, a disk is attached.
# It shows that the emulated machine is fit for the rest (xtask/README.md, settings and why).
spindle_up
probe_up
guest_start many programs 'disk=[]'
guest_need many ran 200
guest_end many
began=$(now)
probe_attach xvdb
probe_detach xvdb
mark hotplug round=1 seconds=$(since $began)
