#!/bin/busybox sh
# The first process of the machine: what its kernel needs, then the client; what that leaves goes to the third disk.
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /tmp /out
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tracefs none /sys/kernel/tracing
ip link set lo up
while read -r module; do insmod "/modules/$module" || echo "no module $module"; done </modules/order
/bin/power guest --requests "$REQUESTS" --seed "$SEED" --data-port "$DATA_PORT" --api-port "$API_PORT" --denies-cache "$DENY" 2>&1 && touch /out/well
cp /*.log /out/ 2>/dev/null
tar -cf /dev/vdc -C /out . && sync && echo "out: written"
poweroff -f
