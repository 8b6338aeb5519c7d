for s in $names; do
  sv status "/etc/service/$s" 2>/dev/null | cut -d: -f1 | grep . || echo absent
done
for s in $names; do if [ -L "/etc/service/$s" ]; then echo enabled; else echo disabled; fi; done
