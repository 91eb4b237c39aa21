"""What several tests share: brokers, browsers, cameras, models and machines."""
