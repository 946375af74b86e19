"""What docks and aircraft do, by their ``mode_code`` (Cloud API: properties of docks and aircraft)."""

DOCK = {
    0: "idle",
    1: "debugged on site",
    2: "debugged remotely",
    3: "upgrading firmware",
    4: "working",
    5: "waiting to be calibrated",
}
AIRCRAFT = {
    0: "standby",
    1: "preparing to take off",
    2: "ready to take off",
    3: "flown by hand",
    4: "taking off",
    5: "flying a route",
    6: "taking a panorama",
    7: "tracking",
    8: "avoiding other aircraft",
    9: "returning home",
    10: "landing",
    11: "forced to land",
    12: "landing on three propellers",
    13: "upgrading firmware",
    14: "not connected",
    15: "assisted flight",
    16: "flown by virtual stick",
    17: "flown live",
    18: "fixing RTK in the air",
    19: "choosing a place for its dock",
    20: "circling a point",
}
