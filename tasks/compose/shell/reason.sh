# A builder of either kind repeats the command that failed, and says its reason above that.
reason() {
  said=$(sed -E 's/\x1b\[[0-9;]*m/\n/g' "$1" | tr -d '\r' |
    sed -E 's/^(#[0-9]+ )?[0-9]+\.[0-9]+ +//' |
    grep -vE "^( *|-+| > \[.*|The command '.*|Removing intermediate .*|(ERROR: )?Service '.* failed to build.*)$" |
    grep -vE '^((#[0-9]+ )?ERROR:|failed to solve:) process ') || :
  # Without its lists apt knows no package.
  printf '%s\n' "$said" | grep -m 1 -E '^[EW]: Failed to fetch' ||
    printf '%s\n' "$said" | grep -m 1 '^E: ' || printf '%s\n' "$said" | tail -n 1
}
